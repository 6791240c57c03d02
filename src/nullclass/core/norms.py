"""What an attacker may do: a ball of radius eps around the image, within the [0,1] box.

eps is in pixel units. Images are ``(N, C, H, W)``; a norm is taken over all of one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.core.errors import UserError

Eps = float | Tensor
"""A budget in pixel units: one for all images, or ``(N,)``, one for each."""


@dataclass(frozen=True)
class Norm:
    """What an attack needs to know of a norm."""

    size: Callable[[Tensor], Tensor]
    """``(N, …)`` perturbations to their ``(N,)`` sizes."""
    project: Callable[[Tensor, Tensor, Eps], Tensor]
    """Attacked images ``(N, …)``, images in [0,1] and eps to attacked images in ball and box."""
    steepest: Callable[[Tensor, Tensor], Tensor]
    """Perturbations ``(N, …)`` of size 1 along which the gradient ``(N, …)`` climbs fast, at the
    images of the second argument: L1 leaves out pixels that the box holds. For one single step."""
    step: Callable[[Tensor, Tensor], Tensor]
    """The same for steps that are projected and repeated: per unit of eps, and of any size."""
    random: Callable[[Tensor, Eps, torch.Generator | None], Tensor]
    """Uniformly random perturbations in the ball, shaped like the first argument."""
    largest: Callable[[int], float]
    """Number of pixels to the largest distance in the [0,1] box."""


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _on(eps: Eps, like: Tensor) -> Eps:
    return eps.to(like) if isinstance(eps, Tensor) else eps


def expand_eps(eps: Eps, like: Tensor) -> Eps:
    """Budgets of images, to multiply with the images."""
    return _column(eps.to(like), like) if isinstance(eps, Tensor) else eps


def _linf_project(attacked: Tensor, images: Tensor, eps: Eps) -> Tensor:
    bound = expand_eps(eps, attacked)
    delta = attacked - images
    delta = delta.clamp(-bound, bound)  # type: ignore[arg-type]
    return (images + delta).clamp(0, 1)  # images are in the box: clamping never leaves the ball


def _linf_random(like: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
    return (2 * _uniform(like.shape, like, generator) - 1) * expand_eps(eps, like)


def _l2_size(delta: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return size


def _l2_project(attacked: Tensor, images: Tensor, eps: Eps) -> Tensor:
    delta = attacked - images
    share = (_on(eps, delta) / _l2_size(delta).clamp(min=1e-30)).clamp(max=1)
    return (images + delta * _column(share, delta)).clamp(0, 1)


def _l2_random(like: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
    # Box-Muller keeps the whole draw on the caller's generator, whatever the device.
    radius = (-2 * (1 - _uniform(like.shape, like, generator)).log()).sqrt()
    direction = radius * (2 * math.pi * _uniform(like.shape, like, generator)).cos()
    share = _uniform(like.shape[:1], like, generator) ** (1 / math.prod(like.shape[1:]))
    return _l2_steepest(direction, like) * _column(_on(eps, like) * share, like)


def _l2_steepest(gradient: Tensor, at: Tensor) -> Tensor:
    # Scaled first: a squared tiny gradient underflows, and would look like no gradient at all.
    largest = _column(gradient.flatten(1).abs().amax(dim=1), gradient)
    scaled = gradient / largest.clamp(min=torch.finfo(gradient.dtype).tiny)
    return scaled / _column(_l2_size(scaled).clamp(min=1e-12), scaled)


def _uniform(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else like.device
    drawn = torch.rand(shape, generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)


L1_SHARE = 0.05
"""Share of the pixels that an L1 step moves, those of the largest gradient; at least one."""


def _l1_size(delta: Tensor) -> Tensor:
    return delta.flatten(1).abs().sum(dim=1)


def _l1_project(attacked: Tensor, images: Tensor, eps: Eps) -> Tensor:
    """The nearest point (in L2) of ball and box together (Croce & Hein 2021, "Mind the box").

    It is the box's clamp of a soft threshold; the threshold is found by bisection, from its safe
    side, so that the result is never outside the ball.
    """
    delta = attacked - images
    sizes, room = delta.abs(), torch.where(delta > 0, 1 - images, images)
    budget = torch.as_tensor(eps, dtype=delta.dtype, device=delta.device).expand(len(delta))

    def at(threshold: Tensor) -> Tensor:
        return (sizes - _column(threshold, delta)).clamp(min=0).minimum(room)

    low = torch.zeros_like(budget)
    high = sizes.flatten(1).amax(dim=1) if len(delta) else low
    is_inside = _l1_size(at(low)) <= budget
    for _ in range(50 if delta.dtype == torch.float64 else 25):  # as many as it has bits, nearly
        middle = (low + high) / 2
        is_low = _l1_size(at(middle)) > budget
        low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
    kept = at(torch.where(is_inside, torch.zeros_like(high), high))
    return (images + delta.sign() * kept).clamp(0, 1)


def _free(gradient: Tensor, at: Tensor) -> Tensor:
    is_held = ((at <= 0) & (gradient < 0)) | ((at >= 1) & (gradient > 0))
    return gradient.masked_fill(is_held, 0)


def _l1_steepest(gradient: Tensor, at: Tensor) -> Tensor:
    free = _free(gradient, at).flatten(1)
    num_moved = max(1, round(L1_SHARE * free.shape[1]))
    top = free.abs().topk(num_moved, dim=1)
    moved = torch.zeros_like(free).scatter(1, top.indices, free.gather(1, top.indices).sign())
    return (moved / _l1_size(moved).clamp(min=1)[:, None]).view_as(gradient)


def _l1_step(gradient: Tensor, at: Tensor) -> Tensor:
    # The projection picks the pixels itself, by all steps so far; a step that picks them by
    # its own gradient alone finds far less (LOG.md). It also takes much of the step away: hence 2.
    return 2 * _l2_steepest(_free(gradient, at), at)


def _l1_random(like: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
    # Uniform on the simplex by exponentials, a random sign each, and the radius as in any ball.
    lengths = -(1 - _uniform(like.shape, like, generator)).log()
    lengths = lengths / _column(_l1_size(lengths).clamp(min=1e-30), like)
    share = _uniform(like.shape[:1], like, generator) ** (1 / math.prod(like.shape[1:]))
    signs = (_uniform(like.shape, like, generator) < 0.5).to(like) * 2 - 1
    return signs * lengths * _column(_on(eps, like) * share, like)


NORMS: dict[str, Norm] = {
    "linf": Norm(
        size=lambda delta: delta.flatten(1).abs().amax(dim=1),
        project=_linf_project,
        steepest=lambda gradient, at: gradient.sign(),
        step=lambda gradient, at: gradient.sign(),
        random=_linf_random,
        largest=lambda num_pixels: 1.0,
    ),
    "l2": Norm(
        size=_l2_size,
        project=_l2_project,
        steepest=_l2_steepest,
        step=_l2_steepest,
        random=_l2_random,
        largest=math.sqrt,
    ),
    "l1": Norm(
        size=_l1_size,
        project=_l1_project,
        steepest=_l1_steepest,
        step=_l1_step,
        random=_l1_random,
        largest=float,
    ),
}
"""L-infinity, L2 and L1."""


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
    largest = find_norm(norm).largest(math.prod(image_shape[1:]))
    if isinstance(eps, Tensor) and eps.shape != image_shape[:1]:
        raise UserError(f"there are {image_shape[0]} images, but budgets of {tuple(eps.shape)}")
    budgets = eps.flatten().tolist() if isinstance(eps, Tensor) else [eps]
    for budget in budgets:
        if not 0 <= budget <= largest:
            raise UserError(
                f"eps {budget:g} is outside [0, {largest:g}], all that {norm} can do to images in "
                "[0,1]: eps is in pixel units, so divide by 255 if yours counts grey levels"
            )


def step_along(direction: Tensor, images: Tensor, eps: Eps, norm: str) -> Tensor:
    """Images moved by eps along directions ``(N, …)`` of size 1, within the ball and the box."""
    return find_norm(norm).project(images + expand_eps(eps, images) * direction, images, eps)


def is_allowed(attacked: Tensor, images: Tensor, eps: Eps, norm: str) -> Tensor:
    """``(N,)`` booleans: within the budget (up to float32 rounding), the box, and finite."""
    delta = attacked.double() - images.double()
    budget = torch.as_tensor(eps, dtype=torch.float64, device=delta.device)
    # A pixel's rounding in float32; in L1 all of them add up.
    rounding = 1e-6 * budget.clamp(min=1) * (math.sqrt(delta[0].numel()) if norm == "l1" else 1)
    in_ball = NORMS[norm].size(delta) <= budget + rounding
    in_box = ((attacked >= 0) & (attacked <= 1)).flatten(1).all(dim=1)
    return in_ball & in_box  # comparisons with NaN are false
