"""Square Attack: random search with squares, on the model's answers alone.

    linf:  x <- x' if margin(x') > margin(x),    x' = x with clean +- eps in a random square
    l2:    the same, where x' moves the perturbation of one random square into another

Andriushchenko et al. 2020 (algorithms 1 to 3): a start of vertical stripes (linf) or of a grid of
bumps (l2), and squares whose share p of the image shrinks with the number of queries. A linf
square that would change nothing changes sign, so that no query is wasted. Where it differs: every
image has a square, a sign and an orientation of its own (published code shares some of them in a
batch), a square may touch the lower and the right edge, the clean image is looked at before the
first query, and null counts as a defence.

No gradient is asked for, so a model that hides or breaks its gradients gains nothing by it.
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

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.losses import Form, ObjectiveName, check_form, find_objective
from nullclass.attacks.state import AttackState, Margin
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps, expand_eps
from nullclass.models.classifier import Classifier

SHRINKS_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which a square's share of the image is halved (section 5)."""


@dataclass(frozen=True)
class Square:
    """Random search on the objective's margin; black-box."""

    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    form: Form = "hard"
    """Of the margin searched on, as for :class:`nullclass.attacks.pgd.PGD`."""
    num_queries: int = 5000
    """Images tried a restart, the start included (N in the paper); the clean image is extra."""
    num_restarts: int = 1
    """Independent searches."""
    p_init: float = 0.8
    """Share of the image that the first squares cover, in (0, 1] (p in the paper)."""
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "scores"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        if self.num_queries < 1 or self.num_restarts < 1:
            raise UserError(
                "square needs at least one query and one restart, not "
                f"{self.num_queries} and {self.num_restarts}"
            )
        if not 0 < self.p_init <= 1:
            raise UserError(f"p_init is a share of the image in (0, 1], not {self.p_init}")
        find_objective(self.objective)
        check_form(self.form)

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """See :class:`nullclass.attacks.base.Attack`.

        Raises:
            UserError: Also if the norm is neither linf nor l2.
        """
        eps = check_eps(eps, norm, images.shape)
        if norm not in MOVES:
            raise UserError(f"square attacks linf and l2, not {norm}")
        standing = AttackState(
            model, images, labels, eps, norm, self.objective, batch_size=batch_size
        )

        climbed = standing.margin(self.form)
        with frozen(model):
            standing.try_clean(climbed)
            if bool(torch.as_tensor(eps > 0).any()):
                for _ in range(self.num_restarts):
                    self._search(standing, MOVES[norm], climbed, generator)
        return standing.adv_images

    def _search(
        self, standing: AttackState, moves: Moves, margin: Margin, generator: torch.Generator | None
    ) -> None:
        # One query for all that stand before the next: batches stay full as images fall.
        current, height = standing.images.clone(), torch.full_like(standing.best, -torch.inf)
        for query in range(self.num_queries):
            if not bool(standing.is_active.any()):
                return
            share = share_at(query, self.num_queries, self.p_init)
            for indices in standing.batches():
                # index_select copies whole images, in a third of the time of plain indexing.
                clean, eps = standing.images.index_select(0, indices), standing.eps_of(indices)
                if query == 0:
                    tried = moves.start(clean, eps, generator)
                else:
                    tried = current.index_select(0, indices)
                    tried = moves.step(tried, clean, eps, share, generator)
                climbed, _ = standing.try_out(indices, tried, margin)
                is_higher = climbed > height[indices]
                higher = indices[is_higher]
                current[higher] = tried[is_higher]
                height[higher] = climbed[is_higher].to(height)


@dataclass(frozen=True)
class Moves:
    """How the search moves in one norm; what comes out is in ball and box."""

    start: Callable[[Tensor, Eps, torch.Generator | None], Tensor]
    """Clean images ``(N, C, H, W)`` and eps to first tries."""
    step: Callable[[Tensor, Tensor, Eps, float, torch.Generator | None], Tensor]
    """Present tries (they may be overwritten), clean images, eps and a square's share of the image
    to the next tries."""


def share_at(query: int, num_queries: int, p_init: float) -> float:
    """A square's share p of the image at a query, the published schedule scaled to num_queries."""
    return p_init * 0.5 ** bisect_left(SHRINKS_AFTER, int(query / num_queries * 10_000))


def _stripes(clean: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
    signs = _signs((len(clean), clean.shape[1], 1, clean.shape[3]), clean, generator)
    return (clean + expand_eps(eps, clean) * signs).clamp(0, 1)


def _linf_step(
    current: Tensor, clean: Tensor, eps: Eps, share: float, generator: torch.Generator | None
) -> Tensor:
    square = _windows(clean, _side(share, clean), generator)
    signs = _signs((*clean.shape[:2], 1), clean, generator)
    current, inside = current.flatten(2), clean.flatten(2).gather(2, square)
    moves = expand_eps(eps, inside) * signs
    tried = (inside + moves).clamp(0, 1)
    is_idle = (tried == current.gather(2, square)).all(dim=2, keepdim=True).all(dim=1, keepdim=True)
    tried = torch.where(is_idle, (inside - moves).clamp(0, 1), tried)
    return current.scatter_(2, square, tried).view_as(clean)


def _grid_of_bumps(clean: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
    num_images, num_channels, height, width = clean.shape
    side = max(1, min(height, width) // 5)
    rows, columns = height // side, width // side
    is_turned = _signs((num_images, 1, rows, columns), clean, generator) > 0
    signs = _signs((num_images, num_channels, rows, columns), clean, generator)
    bumps = two_bumps(side).to(clean)

    def over_tiles(values: Tensor) -> Tensor:
        return values.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)

    tiles = torch.where(
        over_tiles(is_turned), bumps.T.repeat(rows, columns), bumps.repeat(rows, columns)
    )
    tiles = tiles * over_tiles(signs)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    around = (left, width - columns * side - left, top, height - rows * side - top)
    return _moved_by(F.pad(tiles, around), clean, eps)


def _l2_step(
    current: Tensor, clean: Tensor, eps: Eps, share: float, generator: torch.Generator | None
) -> Tensor:
    side = _side(share, clean, least=3)
    grown, emptied = _windows(clean, side, generator), _windows(clean, side, generator)
    signs = _signs((*clean.shape[:2], 1), clean, generator)
    is_turned = _signs((len(clean), 1, 1), clean, generator) > 0
    bumps = two_bumps(side).to(clean)
    bumps = torch.where(is_turned, bumps.T.reshape(-1), bumps.reshape(-1)) * signs

    delta = (current - clean).flatten(2)
    left = (expand_eps(eps, delta) ** 2 - _size(delta) ** 2).clamp(min=0)
    held, taken = delta.gather(2, grown), delta.gather(2, emptied)
    delta.scatter_(2, emptied, 0)
    # What the squares held together (they may overlap) and what the budget had left.
    freed = (taken.square() + delta.gather(2, grown).square()).sum(dim=2, keepdim=True)
    grows = _unit(bumps + _unit(held)) * (left / delta.shape[1] + freed).sqrt()
    return _moved_by(delta.scatter_(2, grown, grows).view_as(clean), clean, eps)


def _unit(channels: Tensor) -> Tensor:
    """Each channel ``(N, C, P)`` divided by its own L2 size."""
    size: Tensor = torch.linalg.vector_norm(channels, dim=2, keepdim=True)
    return channels / (size + 1e-12)


def _size(delta: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return size.view(-1, *[1] * (delta.ndim - 1))


def _moved_by(delta: Tensor, clean: Tensor, eps: Eps) -> Tensor:
    """The clean images moved by the whole budget along ``delta``, within the box."""
    share = expand_eps(eps, clean) / (_size(delta) + 1e-12)
    return torch.addcmul(clean, delta, share).clamp_(0, 1)


@lru_cache(maxsize=256)
def two_bumps(side: int) -> Tensor:
    """``(side, side)`` of L2 size 1: a bump above, its opposite below (eta in the paper).

    A bump is a pile of nested rectangles, the k-th from inside 1 / k^2 high (equation 2).
    """
    upper = side // 2
    bumps = torch.cat([_bump(upper, side), -_bump(side - upper, side)])
    size: Tensor = torch.linalg.vector_norm(bumps)
    return bumps / size


def _bump(height: int, width: int) -> Tensor:
    bump = torch.zeros(height, width, dtype=torch.float64)
    middle_row, middle_column = height // 2, width // 2
    for ring in range(max(middle_row, middle_column) + 1):
        rows = slice(max(0, middle_row - ring), middle_row + ring + 1)
        columns = slice(max(0, middle_column - ring), middle_column + ring + 1)
        bump[rows, columns] += 1 / (ring + 1) ** 2
    size: Tensor = torch.linalg.vector_norm(bump)
    return bump / size.clamp(min=1e-12)


def _side(share: float, clean: Tensor, least: int = 1) -> int:
    """A square's side in pixels; odd where the bumps ask for it, and no wider than the image."""
    height, width = clean.shape[2:]
    side = max(least, round(math.sqrt(share * height * width)))
    if least > 1 and side % 2 == 0:
        side += 1
    return min(side, height, width)


def _windows(clean: Tensor, side: int, generator: torch.Generator | None) -> Tensor:
    """``(N, C, side * side)`` flat positions of one random square an image, for all channels."""
    num_images, num_channels, height, width = clean.shape
    tops = _integers(height - side + 1, (num_images, 1), clean, generator)
    lefts = _integers(width - side + 1, (num_images, 1), clean, generator)
    steps = torch.arange(side, device=clean.device)
    square = (steps[:, None] * width + steps).flatten()
    flat = tops * width + lefts + square
    return flat[:, None].expand(-1, num_channels, -1)


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return _integers(2, shape, like, generator).to(like) * 2 - 1


def _integers(
    end: int, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Random integers in 0 … end - 1, drawn where the generator lives."""
    device = generator.device if generator is not None else like.device
    return torch.randint(end, shape, generator=generator, device=device).to(like.device)


MOVES: dict[str, Moves] = {
    "linf": Moves(start=_stripes, step=_linf_step),
    "l2": Moves(start=_grid_of_bumps, step=_l2_step),
}
"""The search in L-infinity and in L2."""
