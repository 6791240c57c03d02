"""Norms of perturbations, and the ball of radius eps within the [0,1] box.

Images are ``(N, C, H, W)``; a norm is taken over one image. eps is in pixel units, except in L0,
where it is the share of positions (h, w) changed (``|d|_0 / |X|`` in Hosseini et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real

import torch
from torch import Tensor

from nullclass.core.checks import check_choice
from nullclass.core.devices import in_float64
from nullclass.core.errors import UserError

Eps = float | Tensor
"""One budget for all images, or ``(N,)``, one per image."""


@dataclass(frozen=True)
class Norm:
    """A norm that measures perturbations."""

    size: Callable[[Tensor], Tensor]
    """``(N, C, H, W)`` perturbations to their ``(N,)`` sizes."""
    largest: Callable[[int], float]
    """Number of values ``C * H * W`` to the largest size within the [0,1] box."""


@dataclass(frozen=True)
class Ball(Norm):
    """A norm with the operations that attacks need: projection, steps and random points."""

    project: Callable[[Tensor, Tensor, Eps], Tensor]
    """Attacked images ``(N, …)``, images in [0,1] and eps to attacked images in ball and box."""
    steepest: Callable[[Tensor, Tensor], Tensor]
    """Perturbations ``(N, …)`` of size 1 along which the gradient ``(N, …)`` climbs fast, at the
    images of the second argument: L1 leaves out pixels that the box holds. For one single step."""
    step: Callable[[Tensor, Tensor], Tensor]
    """The same for steps that are projected and repeated: per unit of eps, and of any size."""
    random: Callable[[Tensor, Eps, torch.Generator | None], Tensor]
    """Uniformly random perturbations in the ball, shaped like the first argument."""


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
    return (2 * uniform(like.shape, like, generator) - 1) * expand_eps(eps, like)


def move(images: Tensor, delta: Tensor) -> Tensor:
    """Return images moved by at most ``delta``, in the box.

    Rounded towards the images: where all pixels round away from them, as on a flat background, the
    sum leaves the ball.
    """
    moved = images + delta
    start, end = images.detach(), moved.detach()
    is_beyond = (end - start).abs() > delta.detach().abs()
    back = torch.where(is_beyond, torch.nextafter(end, start) - end, 0)
    return (moved + back).clamp(0, 1)


def _l2_size(delta: Tensor) -> Tensor:
    # Row by row: one float32 sum of 3 x 512 x 512 squares gives a norm that is 1e-5 too small.
    rows: Tensor = torch.linalg.vector_norm(delta, dim=-1)
    size: Tensor = torch.linalg.vector_norm(rows[..., None].flatten(1), dim=1)
    return size


def _l2_project(attacked: Tensor, images: Tensor, eps: Eps) -> Tensor:
    delta = attacked - images
    share = (_on(eps, delta) / _l2_size(delta).clamp(min=1e-30)).clamp(max=1)
    return move(images, delta * _column(share, delta))


def _l2_random(like: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
    # Box-Muller keeps the whole draw on the caller's generator, on every device.
    radius = (-2 * (1 - uniform(like.shape, like, generator)).log()).sqrt()
    direction = radius * (2 * math.pi * uniform(like.shape, like, generator)).cos()
    share = uniform(like.shape[:1], like, generator) ** (1 / math.prod(like.shape[1:]))
    return _l2_steepest(direction, like) * _column(_on(eps, like) * share, like)


def _l2_steepest(gradient: Tensor, at: Tensor) -> Tensor:
    # Scaled first: a squared tiny gradient underflows, and would look like no gradient at all.
    largest = _column(gradient.flatten(1).abs().amax(dim=1), gradient)
    scaled = gradient / largest.clamp(min=torch.finfo(gradient.dtype).tiny)
    return scaled / _column(_l2_size(scaled).clamp(min=1e-12), scaled)


def uniform(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return numbers in [0, 1), drawn on the generator's device, of the type of ``like``."""
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
    return move(images, delta.sign() * kept)


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
    lengths = -(1 - uniform(like.shape, like, generator)).log()
    lengths = lengths / _column(_l1_size(lengths).clamp(min=1e-30), like)
    share = uniform(like.shape[:1], like, generator) ** (1 / math.prod(like.shape[1:]))
    signs = (uniform(like.shape, like, generator) < 0.5).to(like) * 2 - 1
    return signs * lengths * _column(_on(eps, like) * share, like)


BALLS: dict[str, Ball] = {
    "linf": Ball(
        size=lambda delta: delta.flatten(1).abs().amax(dim=1),
        project=_linf_project,
        steepest=lambda gradient, at: gradient.sign(),
        step=lambda gradient, at: gradient.sign(),
        random=_linf_random,
        largest=lambda num_pixels: 1.0,
    ),
    "l2": Ball(
        size=_l2_size,
        project=_l2_project,
        steepest=_l2_steepest,
        step=_l2_steepest,
        random=_l2_random,
        largest=math.sqrt,
    ),
    "l1": Ball(
        size=_l1_size,
        project=_l1_project,
        steepest=_l1_steepest,
        step=_l1_step,
        random=_l1_random,
        largest=float,
    ),
}
"""The norms that attacks support: L-infinity, L2 and L1."""


def _share_changed(delta: Tensor) -> Tensor:
    return (delta != 0).any(dim=1).flatten(1).to(delta.dtype).mean(dim=1)


NORMS: dict[str, Norm] = {**BALLS, "l0": Norm(_share_changed, largest=lambda num_pixels: 1.0)}
"""All norms. In L0 perturbations are measured and made, but no attack works in it."""


def find_norm(name: str) -> Norm:
    """Return the norm of that name, or raise UserError."""
    return NORMS[check_choice("norm", name, NORMS)]


def find_ball(name: str) -> Ball:
    """Return the norm of that name with what attacks need, or raise UserError."""
    return BALLS[check_choice("norm", name, BALLS)]


def size_of(adv_images: Tensor, images: Tensor, norm: str) -> Tensor:
    """Return the ``(N,)`` sizes of the differences between two batches of images."""
    return find_norm(norm).size(adv_images - images)


def top_pixels(scores: Tensor, shares: Tensor) -> Tensor:
    """Return a mask of the pixels with the largest scores, as many as an L0 size allows.

    Args:
        scores: ``(N, H, W)``; of equal scores the first counts as larger.
        shares: ``(N,)`` shares of the pixels, rounded down to whole pixels.

    Returns:
        ``(N, 1, H, W)`` booleans.
    """
    flat = scores.flatten(1)
    num_pixels = flat.shape[1]
    # A share of k / num_pixels in float32 may be a rounding short of k pixels.
    counts = (shares * (num_pixels * (1 + 1e-6))).floor()
    order = flat.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(num_pixels, device=scores.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, ranks)
    return (ranks < counts[:, None]).view_as(scores).unsqueeze(1)


def check_eps(eps: object, norm: str, image_shape: torch.Size) -> Eps:
    """Return a budget as a float, or as a ``(N,)`` tensor with one value per image.

    Args:
        eps: A number (Python, NumPy or a 0-d tensor), or a ``(N,)`` tensor.
        norm: A key of :data:`BALLS`.
        image_shape: ``(N, C, H, W)``.

    Raises:
        UserError: If eps is no number, negative, NaN or larger than the [0,1] box allows, or there
            is not one value per image.
    """
    largest = find_ball(norm).largest(math.prod(image_shape[1:]))
    if isinstance(eps, Tensor) and eps.ndim and eps.dtype != torch.bool:
        if eps.shape != image_shape[:1]:
            raise UserError(
                f"eps has shape {tuple(eps.shape)} for {image_shape[0]} images: give one number, "
                f"or a tensor of shape ({image_shape[0]},)"
            )
        checked: Eps = eps if eps.is_floating_point() else eps.float()
        values = eps.tolist()
    else:
        value: object = eps.item() if isinstance(eps, Tensor) and eps.ndim == 0 else eps
        if isinstance(value, bool) or not isinstance(value, Real):
            raise UserError(
                f"eps must be a number or a tensor of shape (N,), not {value!r} of type "
                f"{type(value).__name__}"
            )
        checked = float(value)
        values = [checked]
    for number in values:
        if not 0 <= number <= largest:
            raise UserError(
                f"eps {number:g} is outside [0, {largest:g}], the range of {norm} for images in "
                "[0,1]: eps is in pixel units, so divide by 255 if yours counts grey levels"
            )
    return checked


def step_along(direction: Tensor, images: Tensor, eps: Eps, norm: str) -> Tensor:
    """Return images moved by eps along directions ``(N, …)`` of size 1, in the ball and the box."""
    return find_ball(norm).project(images + expand_eps(eps, images) * direction, images, eps)


def along_gradient(norm: Ball) -> Ball:
    """Return the norm with steps along gradients themselves, not where it allows the steepest.

    In L-infinity they are as long, in L2, as the steps of the norm; otherwise their L2 size is 1.
    """

    def step(gradient: Tensor, at: Tensor) -> Tensor:
        num_values = gradient[0].numel()
        length = max(1.0, math.sqrt(num_values) / norm.largest(num_values))
        return length * _l2_steepest(gradient, at)

    return replace(norm, step=step)


def is_allowed(adv_images: Tensor, images: Tensor, eps: Eps, norm: str) -> Tensor:
    """Return ``(N,)`` booleans: finite, in the box and, up to float32 rounding, in the ball."""
    delta = in_float64(adv_images) - in_float64(images)
    budget = in_float64(eps).to(delta.device)
    # A pixel's rounding in float32; in L1 all of them add up.
    rounding = 1e-6 * budget.clamp(min=1) * (math.sqrt(delta[0].numel()) if norm == "l1" else 1)
    in_ball = NORMS[norm].size(delta) <= budget + rounding
    in_box = ((adv_images >= 0) & (adv_images <= 1)).flatten(1).all(dim=1)
    return in_ball.to(in_box.device) & in_box  # comparisons with NaN are false
