"""A search of the ball for a point below a bound, and the layers to test."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nullclass.certify import Network, Verifier, read_network
from nullclass.models import Classifier

SIZE = 6
NUM_CLASSES = 3


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.inner(x)) - torch.tanh(x)


class Viewed(nn.Module):
    """Arithmetic, functions, sizes and a mean over pixels, as users write them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.tail = nn.Linear(4 * 9 + 4, 4)
        self.batch = nn.BatchNorm1d(36)

    def forward(self, x: Tensor) -> Tensor:
        num_images = x.size(0)
        x = F.leaky_relu(self.inner((x - 0.5) / 0.25) * 0.5 + 1, 0.1)
        low = F.avg_pool2d(x, 2, ceil_mode=True) + F.max_pool2d(x, 2, ceil_mode=True)
        pooled = F.elu(low).mean((2, 3), keepdim=True) + x
        return self.batch(pooled.view(num_images, -1)).reshape(x.shape[0], 4, -1)


class Shared(nn.Module):
    """One activation read twice, one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).sigmoid()
        return self.inner(y) + y + y


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "nothing": nn.Identity,
    "relu": lambda: nn.ReLU(),
    "leaky": lambda: nn.LeakyReLU(0.2),
    "steep leaky": lambda: nn.LeakyReLU(1.5),
    "elu": lambda: nn.ELU(0.7),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hardtanh": lambda: nn.Hardtanh(-0.2, 0.3),
    "relu6": nn.ReLU6,
    "batch norm": lambda: nn.BatchNorm2d(3),
    "average": lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
    "overlapping maximum": lambda: nn.MaxPool2d(3, 1, padding=1),
    "maximum": lambda: nn.MaxPool2d(2),
    "adaptive average": lambda: nn.AdaptiveAvgPool2d((2, 3)),
    "grouped convolution": lambda: nn.Conv2d(3, 6, 3, dilation=2, padding="same", groups=3),
    "convolution of single pixels": lambda: nn.Conv2d(3, 3, 1, groups=3),
    "residual": Residual,
    "viewed": Viewed,
    "shared": Shared,
    "dropout": lambda: nn.Dropout(0.5),
}
"""Layers between a convolution and a linear layer; inputs have three channels."""


def small_model(layer: nn.Module, seed: int, *, scale: float = 1.0) -> Classifier:
    """Convolution, the layer, ReLU and linear; random statistics of batch norm, two channels with
    their own standardisation."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = nn.Conv2d(2, 3, 3, padding=1)
        for part in layer.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()  # built outside the fork
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.2, 2)
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
        front = nn.Sequential(first, layer).eval()
        width = front(torch.zeros(2, 2, SIZE, SIZE)).flatten(1).shape[1]
        hidden, last = nn.Linear(width, 5), nn.Linear(5, NUM_CLASSES)
        body = nn.Sequential(first, layer, nn.Flatten(), hidden, nn.ReLU(), last)
        with torch.no_grad():
            for parameter in body.parameters():
                parameter.mul_(scale)
    return Classifier(body, NUM_CLASSES, has_null=False, mean=(0.1, 0.4), std=(0.3, 0.5)).eval()


def random_images(num: int, seed: int) -> Tensor:
    """Images with many pixels at 0 and 1, where the box is cut."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(num, 2, SIZE, SIZE, generator=generator) * 1.6 - 0.3
    return images.clamp(0, 1)


def random_spec(num_images: int, seed: int) -> Tensor:
    """``(N, 4, L)``, of any signs."""
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(num_images, 4, NUM_CLASSES, generator=generator)


def worst_gap(
    verifier: Verifier,
    network: Network,
    model: Classifier,
    images: Tensor,
    radius: float,
    norm: str,
    spec: Tensor,
    seed: int = 0,
) -> float:
    """Smallest ``C z`` found in the ball minus the bound: negative if the bound is wrong.

    The logits are the model's own in float64. Points are the center, random corners, and those on
    gradient descent from both.
    """
    with torch.no_grad():
        bounds = verifier(network, images, radius, norm)(spec).double()
    exact = deepcopy(model).double()
    rows = spec.double().expand(len(images), *spec.shape[-2:]).flatten(0, 1)
    center = images.double().repeat_interleave(bounds.shape[1], dim=0)
    generator = torch.Generator().manual_seed(seed)
    least = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    for start in ("center", "corner"):
        noise = torch.randn(center.shape, generator=generator, dtype=torch.float64)
        points = center if start == "center" else center + 10 * radius * noise.sign()
        points = _within(points, center, radius, norm)
        for step in range(6 if radius else 1):
            points = points.detach().requires_grad_()
            values = (exact(points) * rows).sum(dim=1)
            least = torch.minimum(least, values.detach())
            (gradient,) = torch.autograd.grad(values.sum(), points)
            size = radius * (1.0 if step % 3 == 0 else 0.2)
            if norm == "linf":
                move = gradient.sign() * size
            else:
                length = gradient.flatten(1).norm(dim=1).clamp(min=1e-30)
                move = gradient / length.view(-1, 1, 1, 1) * size
            points = _within(points.detach() - move, center, radius, norm)
    return float((least.view(bounds.shape) - bounds).min())


def _within(points: Tensor, center: Tensor, radius: float, norm: str) -> Tensor:
    """Project into the ball and [0,1], slightly inside, so that float64 leaves neither."""
    radius = radius * (1 - 1e-12)
    delta = points - center
    if norm == "linf":
        delta = delta.clamp(-radius, radius)
        return (center + delta).clamp(0, 1)
    inside = (center + delta).clamp(0, 1) - center  # projections onto [0,1] bring nearer
    length = inside.flatten(1).norm(dim=1).clamp(min=1e-300).view(-1, 1, 1, 1)
    return center + inside * (radius / length).clamp(max=1)


def read(
    model: Classifier,
    dtype: torch.dtype = torch.float32,
    image_shape: tuple[int, int, int] = (2, SIZE, SIZE),
) -> tuple[Classifier, Network]:
    """The model in that type and its network."""
    model = model.to(dtype)
    return model, read_network(model, image_shape)
