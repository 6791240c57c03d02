"""The gradient step shared by attacks, null images, adversarial training and perturbations.

    x <- project(x + step_size * direction(d loss / d x))

The model is used as it is: wrap the steps in :func:`nullclass.core.modules.frozen` for evaluation
mode and for gradients of the images alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.core.norms import Ball, Eps, expand_eps

Loss = Callable[[Tensor], Tensor]
"""Logits ``(N, L)`` to losses ``(N,)``, which the attacker maximises."""


class NoGradientError(UserError):
    """The logits have no gradient with respect to the images."""

    def __init__(self) -> None:
        super().__init__(
            "the model's logits have no gradient with respect to the images: its forward pass "
            "detaches them (torch.no_grad, detach or NumPy). Remove that, or use an attack without "
            "gradients, such as Square()"
        )


def forward(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return ``model(images)`` for images that require a gradient.

    Raises:
        NoGradientError: If the model calls ``numpy()`` on them.
    """
    try:
        return model(images)
    except RuntimeError as error:
        if "requires grad" in str(error):
            raise NoGradientError from error
        raise


def backward(losses: Tensor, images: Tensor, *, is_raw: bool = False) -> Tensor:
    """Return the gradient of each loss ``(N,)`` with respect to its image, ``(N, C, H, W)``.

    Args:
        losses: Computed from the images.
        images: They require a gradient.
        is_raw: Whether to keep values that are not finite. By default they are 0, so that an image
            without a finite gradient counts as one without a gradient.

    Raises:
        NoGradientError: If the losses do not depend on the images.
    """
    if not losses.requires_grad:
        raise NoGradientError
    (gradient,) = torch.autograd.grad(losses.sum(), images, allow_unused=True)
    if gradient is None:
        raise NoGradientError
    return gradient if is_raw else gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def input_gradient(
    model: Callable[[Tensor], Tensor], images: Tensor, loss: Loss, *, is_raw: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the gradient ``(N, C, H, W)`` of the loss with respect to the images, and the losses.

    Args:
        model: Maps images to logits; each image's logits depend on that image alone.
        images: ``(N, C, H, W)``; left as they are.
        loss: Logits to losses ``(N,)``.
        is_raw: As for :func:`backward`.

    Raises:
        NoGradientError: If the model's forward pass detaches the images.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        losses = loss(forward(model, images))
        return backward(losses, images, is_raw=is_raw), losses.detach()


def add_momentum(past: Tensor, gradient: Tensor, momentum: float) -> Tensor:
    """Return ``momentum * past + gradient / |gradient|_1`` per image (Dong et al. 2018, eq. 6)."""
    size = gradient.flatten(1).abs().sum(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return momentum * past + gradient / size.view(-1, 1, 1, 1)


def ascend(
    adv_images: Tensor, gradient: Tensor, images: Tensor, *, eps: Eps, step_size: Eps, norm: Ball
) -> Tensor:
    """Return the images after one projected step that increases the loss.

    Args:
        adv_images: ``(N, C, H, W)``, within eps of ``images``.
        gradient: ``(N, C, H, W)``, of the loss at ``adv_images``; only its direction counts.
        images: The clean images.
        eps: Radius of the ball, one number or ``(N,)``.
        step_size: In pixel units, one number or ``(N,)``.
        norm: From :func:`nullclass.core.norms.find_ball`.
    """
    moved = adv_images + expand_eps(step_size, adv_images) * norm.step(gradient, adv_images)
    return norm.project(moved, images, eps)


def has_direction(gradient: Tensor) -> Tensor:
    """Return ``(N,)`` booleans: whether the image's gradient is nonzero anywhere."""
    return (gradient != 0).flatten(1).any(dim=1)
