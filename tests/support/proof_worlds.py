"""Tiny networks of a few pixels, and ways to search all of their images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nullclass.models import Classifier


def tiny_net(
    seed: int,
    num_classes: int = 3,
    num_nulls: int = 0,
    pixels: int = 2,
    scale: float = 4.0,
    hidden: int = 8,
) -> Classifier:
    """A random network with one hidden layer on images ``(1, 1, pixels)``."""
    generator = torch.Generator().manual_seed(seed)
    first = nn.Linear(pixels, hidden)
    last = nn.Linear(hidden, num_classes + num_nulls)
    with torch.no_grad():
        for layer in (first, last):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        first.weight.mul_(scale)
        # Kinks through points of the box, and equal logits in its middle.
        points = torch.rand((hidden, pixels), generator=generator)
        first.bias.copy_(-(first.weight * points).sum(dim=1))
        middle = torch.relu(first(torch.full((1, pixels), 0.5)))
        last.bias.copy_(-(middle @ last.weight.T)[0])
    body = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
    return Classifier(body, num_classes, has_null=num_nulls > 0, num_nulls=max(num_nulls, 1)).eval()


def line_world() -> Classifier:
    """Logits 10 (x - 0.5) and 0 of one pixel x: class 0 above the middle, 1 below."""
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[10.0], [0.0]]))
        layer.bias.copy_(torch.tensor([-5.0, 0.0]))
    return Classifier(nn.Sequential(nn.Flatten(), layer), 2, has_null=False).eval()


def square_grid(side: int) -> Tensor:
    """All images of two pixels on a grid over [0,1]; ``(side², 1, 1, 2)``."""
    axis = torch.linspace(0, 1, side)
    return torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)


def distances(images: Tensor) -> Tensor:
    """``(N, N)`` L∞ distances."""
    points = images.flatten(1).double()
    return torch.cdist(points, points, p=torch.inf)


def random_moves(
    images: Tensor, eps: float, norm: str, generator: torch.Generator, num: int
) -> Tensor:
    """``num`` random points of each image's ball, in L2 of its surface: ``(num * N, C, H, W)``."""
    images = images.repeat(num, 1, 1, 1)
    delta = 2 * torch.rand(images.shape, generator=generator) - 1
    if norm == "l2":
        delta = delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (images + eps * delta).clamp(0, 1)
