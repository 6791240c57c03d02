"""Square Attack: random search with squares, on the model's logits alone.

    linf:  x <- x' if loss(x') > loss(x),    x' = x with clean +- eps in a random square
    l2:    the same, where x' moves the perturbation of one random square into another

Andriushchenko et al. 2020 (algorithms 1 to 3): the start has vertical stripes (linf) or a grid of
bumps (l2), and the squares' share p of the image shrinks with the number of queries. Differences:
a linf square that would change nothing flips its sign, so that no query is wasted; every image has
its own square, sign and orientation (published code shares some of them in a batch); a square may
touch the lower and the right edge; the clean image is evaluated before the first query; null counts
as a defence. The attack uses no gradient, so masked gradients do not help against it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.attacks.base import BaseAttack
from nullclass.attacks.losses import LossName, ObjectiveName
from nullclass.attacks.state import AttackState, IndexedLoss
from nullclass.core.norms import Eps, expand_eps, find_ball, move
from nullclass.results.schema import Access

SHRINKS_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which a square's share of the image is halved (section 5)."""


@dataclass(frozen=True)
class Square(BaseAttack):
    """Random search on the objective's loss; black-box.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    objective: ObjectiveName = "fool"
    loss: LossName = "margin"
    """What the search maximises (:mod:`nullclass.attacks.losses`)."""
    num_queries: int = 5000
    """Queries per image and restart, the start included (N in the paper); the clean image is
    extra."""
    num_restarts: int = 1
    """Independent searches."""
    p_init: float = 0.8
    """Share of the image that the first squares cover, in (0, 1] (p in the paper)."""
    access: ClassVar[Access] = "scores"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        loss = state.loss(self.loss)
        state.evaluate_clean()
        if bool(torch.as_tensor(state.eps > 0).any()):
            for _ in range(self.num_restarts):
                self._search(state, loss, generator)

    def _search(
        self, state: AttackState, loss: IndexedLoss, generator: torch.Generator | None
    ) -> None:
        # All active images get one query before the next: batches stay full as images succeed.
        proposals = PROPOSALS[state.norm_name]
        current, best = state.images.clone(), torch.full_like(state.best, -torch.inf)
        for query in range(self.num_queries):
            if not bool(state.active.any()):
                return
            share = share_at(query, self.num_queries, self.p_init)
            for indices in state.batches():
                # index_select copies images in a third of the time of plain indexing.
                images, eps = state.images.index_select(0, indices), state.eps_at(indices)
                if query == 0:
                    adv_images = proposals.start(images, eps, generator)
                else:
                    adv_images = current.index_select(0, indices)
                    adv_images = proposals.step(adv_images, images, eps, share, generator)
                losses = loss(state.evaluate(indices, adv_images), indices)
                is_higher = losses > best[indices]
                higher = indices[is_higher]
                current[higher] = adv_images[is_higher]
                best[higher] = losses[is_higher].to(best)


@dataclass(frozen=True)
class Proposals:
    """How the search moves in one norm, within the ball and the box."""

    start: Callable[[Tensor, Eps, torch.Generator | None], Tensor]
    """Clean images ``(N, C, H, W)`` and eps to starting points."""
    step: Callable[[Tensor, Tensor, Eps, float, torch.Generator | None], Tensor]
    """Current images (may be overwritten), clean images, eps and the square's share of the image
    to the next candidates."""


def share_at(query: int, num_queries: int, p_init: float) -> float:
    """Return a square's share p of the image: the published schedule scaled to num_queries."""
    return p_init * 0.5 ** bisect_left(SHRINKS_AFTER, int(query / num_queries * 10_000))


def _stripes(images: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
    signs = _signs((len(images), images.shape[1], 1, images.shape[3]), images, generator)
    return (images + expand_eps(eps, images) * signs).clamp(0, 1)


def _linf_step(
    current: Tensor, images: Tensor, eps: Eps, share: float, generator: torch.Generator | None
) -> Tensor:
    square = _windows(images, _side(share, images), generator)
    signs = _signs((*images.shape[:2], 1), images, generator)
    current, inside = current.flatten(2), images.flatten(2).gather(2, square)
    delta = expand_eps(eps, inside) * signs
    proposed = (inside + delta).clamp(0, 1)
    is_idle = (proposed == current.gather(2, square)).all(dim=(1, 2)).view(-1, 1, 1)
    proposed = torch.where(is_idle, (inside - delta).clamp(0, 1), proposed)
    return current.scatter_(2, square, proposed).view_as(images)


def _grid_of_bumps(images: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
    num_images, num_channels, height, width = images.shape
    side = max(1, min(height, width) // 5)
    rows, columns = height // side, width // side
    is_transposed = _signs((num_images, 1, rows, columns), images, generator) > 0
    signs = _signs((num_images, num_channels, rows, columns), images, generator)
    bumps = two_bumps(side).to(images)

    def over_tiles(values: Tensor) -> Tensor:
        return values.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)

    transposed, upright = bumps.T.repeat(rows, columns), bumps.repeat(rows, columns)
    tiles = torch.where(over_tiles(is_transposed), transposed, upright) * over_tiles(signs)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    padding = (left, width - columns * side - left, top, height - rows * side - top)
    return _move_by(F.pad(tiles, padding), images, eps)


def _l2_step(
    current: Tensor, images: Tensor, eps: Eps, share: float, generator: torch.Generator | None
) -> Tensor:
    side = _side(share, images, least=3)
    grown, emptied = _windows(images, side, generator), _windows(images, side, generator)
    signs = _signs((*images.shape[:2], 1), images, generator)
    is_transposed = _signs((len(images), 1, 1), images, generator) > 0
    bumps = two_bumps(side).to(images)
    bumps = torch.where(is_transposed, bumps.T.reshape(-1), bumps.reshape(-1)) * signs

    delta = (current - images).flatten(2)
    unused = (expand_eps(eps, delta) ** 2 - _l2_size(delta) ** 2).clamp(min=0)
    in_grown, in_emptied = delta.gather(2, grown), delta.gather(2, emptied)
    delta.scatter_(2, emptied, 0)
    # The budget of both squares (they may overlap), and what the image had not used.
    freed = (in_emptied.square() + delta.gather(2, grown).square()).sum(dim=2, keepdim=True)
    size = (unused / delta.shape[1] + freed).sqrt()
    delta.scatter_(2, grown, _unit(bumps + _unit(in_grown)) * size)
    return _move_by(delta.view_as(images), images, eps)


def _unit(channels: Tensor) -> Tensor:
    """Return each channel ``(N, C, P)`` divided by its L2 size."""
    size: Tensor = torch.linalg.vector_norm(channels, dim=2, keepdim=True)
    return channels / (size + 1e-12)


def _l2_size(delta: Tensor) -> Tensor:
    return find_ball("l2").size(delta).view(-1, *[1] * (delta.ndim - 1))


def _move_by(delta: Tensor, images: Tensor, eps: Eps) -> Tensor:
    """Return images moved by the full budget along ``delta``, within the box."""
    scale = expand_eps(eps, images) / (_l2_size(delta) + 1e-12)
    return move(images, delta * scale)


@lru_cache(maxsize=256)
def two_bumps(side: int) -> Tensor:
    """Return ``(side, side)`` of L2 size 1: a bump above, its opposite below (eta in the paper).

    A bump is a pile of nested rectangles, the k-th from inside 1 / k^2 high (equation 2).
    """
    upper = side // 2
    bumps = torch.cat([_bump(upper, side), -_bump(side - upper, side)])
    size: Tensor = torch.linalg.vector_norm(bumps)
    return bumps / size


def _bump(height: int, width: int) -> Tensor:
    bump = torch.zeros(height, width, dtype=torch.float64)
    row, column = height // 2, width // 2
    for ring in range(max(row, column) + 1):
        rows = slice(max(0, row - ring), row + ring + 1)
        columns = slice(max(0, column - ring), column + ring + 1)
        bump[rows, columns] += 1 / (ring + 1) ** 2
    size: Tensor = torch.linalg.vector_norm(bump)
    return bump / size.clamp(min=1e-12)


def _side(share: float, images: Tensor, least: int = 1) -> int:
    """Return a square's side in pixels: odd for bumps, and at most the image's."""
    height, width = images.shape[2:]
    side = max(least, round(math.sqrt(share * height * width)))
    if least > 1 and side % 2 == 0:
        side += 1
    return min(side, height, width)


def _windows(images: Tensor, side: int, generator: torch.Generator | None) -> Tensor:
    """Return flat positions ``(N, C, side * side)`` of one random square per image."""
    num_images, num_channels, height, width = images.shape
    tops = _integers(height - side + 1, (num_images, 1), images, generator)
    lefts = _integers(width - side + 1, (num_images, 1), images, generator)
    steps = torch.arange(side, device=images.device)
    square = (steps[:, None] * width + steps).flatten()
    flat = tops * width + lefts + square
    return flat[:, None].expand(-1, num_channels, -1)


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return _integers(2, shape, like, generator).to(like) * 2 - 1


def _integers(
    end: int, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Return random integers in [0, end), drawn on the generator's device."""
    device = generator.device if generator is not None else like.device
    return torch.randint(end, shape, generator=generator, device=device).to(like.device)


PROPOSALS: dict[str, Proposals] = {
    "linf": Proposals(start=_stripes, step=_linf_step),
    "l2": Proposals(start=_grid_of_bumps, step=_l2_step),
}
