"""What an attacker may do: a ball of radius eps around the image, within the [0,1] box.

eps is in pixel units. Images are ``(N, C, H, W)``; a norm is taken over all of one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.errors import UserError

Eps = float | Tensor
"""A budget in pixel units: one for all images, or ``(N,)``, one for each."""


@dataclass(frozen=True)
class Norm:
    """The three things an attack needs to know of a norm."""

    size: Callable[[Tensor], Tensor]
    """``(N, …)`` perturbations to their ``(N,)`` sizes."""
    shrink: Callable[[Tensor, Eps], Tensor]
    """Nearest perturbations ``(N, …)`` of size at most eps."""
    steepest: Callable[[Tensor], Tensor]
    """Perturbations ``(N, …)`` of size 1 along which the gradient ``(N, …)`` climbs fastest."""
    random: Callable[[Tensor, Eps, torch.Generator | None], Tensor]
    """Uniformly random perturbations in the ball, shaped like the first argument."""


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _on(eps: Eps, like: Tensor) -> Eps:
    return eps.to(like) if isinstance(eps, Tensor) else eps


def wide(eps: Eps, like: Tensor) -> Eps:
    """Budgets of images, to multiply with the images."""
    return _column(eps.to(like), like) if isinstance(eps, Tensor) else eps


def _linf_shrink(delta: Tensor, eps: Eps) -> Tensor:
    if isinstance(eps, Tensor):
        bound = _column(eps.to(delta), delta)
        return delta.clamp(-bound, bound)
    return delta.clamp(-eps, eps)


def _linf_random(like: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
    return (2 * _uniform(like.shape, like, generator) - 1) * wide(eps, like)


def _l2_size(delta: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return size


def _l2_shrink(delta: Tensor, eps: Eps) -> Tensor:
    return delta * _column((_on(eps, delta) / _l2_size(delta).clamp(min=1e-30)).clamp(max=1), delta)


def _l2_random(like: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
    # Box-Muller keeps the whole draw on the caller's generator, whatever the device.
    radius = (-2 * (1 - _uniform(like.shape, like, generator)).log()).sqrt()
    direction = radius * (2 * math.pi * _uniform(like.shape, like, generator)).cos()
    share = _uniform(like.shape[:1], like, generator) ** (1 / math.prod(like.shape[1:]))
    return _l2_steepest(direction) * _column(_on(eps, like) * share, like)


def _l2_steepest(gradient: Tensor) -> Tensor:
    # Scaled first: a squared tiny gradient underflows, and would look like no gradient at all.
    largest = _column(gradient.flatten(1).abs().amax(dim=1), gradient)
    scaled = gradient / largest.clamp(min=torch.finfo(gradient.dtype).tiny)
    return scaled / _column(_l2_size(scaled).clamp(min=1e-12), scaled)


def _uniform(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else like.device
    drawn = torch.rand(shape, generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)


NORMS: dict[str, Norm] = {
    "linf": Norm(
        size=lambda delta: delta.flatten(1).abs().amax(dim=1),
        shrink=_linf_shrink,
        steepest=torch.sign,
        random=_linf_random,
    ),
    "l2": Norm(size=_l2_size, shrink=_l2_shrink, steepest=_l2_steepest, random=_l2_random),
}
"""L-infinity and L2."""


def find_norm(name: str) -> Norm:
    """The norm of that name.

    Raises:
        UserError: If it is unknown.
    """
    if name not in NORMS:
        raise UserError(f"there is no norm {name!r}: choose one of {', '.join(NORMS)}")
    return NORMS[name]


def check_eps(eps: Eps, norm: str, image_shape: torch.Size) -> None:
    """Refuse a budget that is negative, not a number, or larger than the whole [0,1] box.

    Raises:
        UserError: With a hint at the most likely slip, units of 0 to 255; or if there is not one
            budget for each image.
    """
    find_norm(norm)
    largest = 1.0 if norm == "linf" else math.sqrt(math.prod(image_shape[1:]))
    if isinstance(eps, Tensor) and eps.shape != image_shape[:1]:
        raise UserError(f"there are {image_shape[0]} images, but budgets of {tuple(eps.shape)}")
    budgets = eps.flatten().tolist() if isinstance(eps, Tensor) else [eps]
    for budget in budgets:
        if not 0 <= budget <= largest:
            raise UserError(
                f"eps {budget:g} is outside [0, {largest:g}], all that {norm} can do to images in "
                "[0,1]: eps is in pixel units, so divide by 255 if yours counts grey levels"
            )


def along(direction: Tensor, images: Tensor, eps: Eps, norm: str) -> Tensor:
    """Images moved by eps along directions ``(N, …)`` of size 1, within the ball and the box."""
    return project(images + wide(eps, images) * direction, images, eps, find_norm(norm))


def project(attacked: Tensor, images: Tensor, eps: Eps, norm: Norm) -> Tensor:
    """Back into the ball around ``images`` and the [0,1] box.

    The images are in the box, so clamping to it never leaves the ball.
    """
    return (images + norm.shrink(attacked - images, eps)).clamp(0, 1)


def is_allowed(attacked: Tensor, images: Tensor, eps: Eps, norm: str) -> Tensor:
    """``(N,)`` booleans: within the budget (up to float32 rounding), the box, and finite."""
    delta = attacked.double() - images.double()
    budget = torch.as_tensor(eps, dtype=torch.float64, device=delta.device)
    rounding = 1e-6 * budget.clamp(min=1)
    in_ball = NORMS[norm].size(delta) <= budget + rounding
    in_box = ((attacked >= 0) & (attacked <= 1)).flatten(1).all(dim=1)
    return in_ball & in_box  # comparisons with NaN are false
