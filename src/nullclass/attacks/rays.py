"""RayS: a search over directions, on nothing but the labels that the model answers.

    x(z, r) = project(z onto the L-infinity ball of radius r around x)
    z <- z'  if x(z', r) succeeds; then r shrinks along z',    z' = z with one block flipped

Chen & Gu 2020, "RayS: A Ray Searching Method for Hard-label Adversarial Attack" (algorithms 1 to
3). A direction is where each pixel goes, and lies at the end z of its ray: a corner of the box, for
the sign vector of the paper. A flipped pixel goes to the other end of the box. Blocks are first the
whole image, then its halves, and so on down to single pixels, then all over again. One query tells
whether a flip is worth more: the point at the smallest radius so far must succeed too (the fast
check). Only then is the new radius looked for.

Success is the objective's, so null is none for *fool*; that asks for two departures, and a third
saves queries.

- Nearly every sign vector ends in null, and nothing would be found to start from. So rays start
  towards pool images that the model answers as the attacker wants: the first end z is that image
  itself, which the ray reaches at its own distance, so that it succeeds there for certain. Then,
  and before every round of flips, the corner that the ray points to is tried. The paper's own
  start, towards white, comes last.
- Where a ray succeeds, it may end in null again farther out, and nearer too. So "succeeds from
  radius r on" is never assumed: the upper end of the interval is always a point that succeeded
  itself, the lower end one that did not.
- Most flips shorten a ray by very little, so the new radius is looked for from the old one inwards,
  in steps that double, and between the last two by halves: two queries instead of ten.

An image is done when its radius is within eps. The search itself does not know eps, so that what it
finds within a small eps it also finds within a large one, with no more queries.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.candidates import nearest_of_each, subsample
from nullclass.attacks.losses import Objective, ObjectiveName, find_objective
from nullclass.attacks.state import default_batch_size
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps, find_ball
from nullclass.core.outcomes import outcomes
from nullclass.data.arrays import LabelledImages
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class RayS:
    """Direction search on labels alone (hard-label), L-infinity only; deterministic."""

    pool: LabelledImages | None = field(default=None, repr=False, compare=False)
    """Where rays start towards; what counts is the model's answer, not their label. ``None`` takes
    the images under attack themselves, as for :class:`nullclass.attacks.dataset.DatasetAttack`."""
    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    num_queries: int = 2000
    """Labels asked for an image, at most. The clean image and the pool, which are asked about once
    a call, are extra."""
    num_starts: int = 5
    """Pool images tried as a first end, each of another answer, the nearest (L2) first."""
    num_donors: int = 1000
    """Pool images looked at, at most; a larger pool is thinned out evenly."""
    tolerance: float = 1e-3
    """Pixel units up to which a radius is found, as in the published code."""
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "labels"
    norms: ClassVar[tuple[str, ...]] = ("linf",)

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        if self.num_queries < 1 or self.num_donors < 1 or self.num_starts < 0:
            raise UserError(
                "rays need at least one query, one pool image to look at and no fewer than zero "
                f"starts, not {self.num_queries}, {self.num_donors} and {self.num_starts}"
            )
        if not 0 < self.tolerance <= 0.1:
            raise UserError(f"tolerance is a radius in (0, 0.1] pixel units, not {self.tolerance}")
        find_objective(self.objective)

    def with_reference_images(self, pool: LabelledImages) -> RayS:
        """See :class:`nullclass.attacks.base.TakesReferenceImages`; a pool of one's own is kept."""
        return replace(self, pool=pool) if self.pool is None else self

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

        Where no radius within eps was found, the image on the best ray at eps; the clean image, if
        there is no ray.

        Raises:
            UserError: Also if the norm is not linf, or the pool's images have another shape.
        """
        eps = check_eps(eps, norm, images.shape)
        if norm not in self.norms:
            raise UserError(f"rays attacks linf, not {norm}")
        if self.objective == "force-null" and not model.has_null:
            raise UserError("objective deny needs a model with a null class to push images into")
        objective, images = find_objective(self.objective), images.detach()
        if not len(images):
            return images.clone()
        with frozen(model), torch.no_grad():
            is_reached = objective.is_reached(outcomes(_labels_of(model, images), labels))
            rays = _Rays(images, ~is_reached, eps, self.tolerance)
            if rays.is_open.any():
                rays.starts(*self._starts(model, images, labels, objective))
            for _ in range(self.num_queries):
                is_open = rays.is_open.nonzero().squeeze(1)
                if not len(is_open):
                    break
                for indices in is_open.split(batch_size or default_batch_size(images)):
                    points, radii = rays.ask(indices)
                    told = outcomes(model.predict(points), labels[indices])
                    rays.hear(indices, radii, objective.is_reached(told))
            return rays.adv_images()

    def _starts(
        self, model: Classifier, images: Tensor, labels: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor, Tensor]:
        """First ends ``(M, C, H, W)``, for each image which of them ``(N, T)``, and how many."""
        pool = subsample(self.pool, images, self.num_donors)
        distances = torch.cdist(images.flatten(1), pool.flatten(1))
        answers = _labels_of(model, pool)
        chosen, is_donor = nearest_of_each(distances, answers, labels, objective, num_nearest=1)
        num_donors = is_donor.sum(dim=1).clamp(max=self.num_starts)
        white = torch.full((len(images), 1), len(pool), device=images.device)
        chosen = torch.cat([chosen, white], dim=1).scatter(1, num_donors[:, None], white)
        return torch.cat([pool, torch.ones_like(pool[:1])]), chosen, num_donors + 1


class _Rays:
    """The best ray of every image, and the one that is being tried."""

    def __init__(self, images: Tensor, is_open: Tensor, eps: Eps, tolerance: float) -> None:
        def of_each(value: float) -> Tensor:
            return torch.full(is_open.shape, value, dtype=images.dtype, device=images.device)

        self.images = images
        eps = torch.as_tensor(eps, dtype=images.dtype, device=images.device)
        self.eps = eps.expand(is_open.shape)
        self.tolerance = tolerance
        self.is_open = is_open & (self.eps > 0)
        """``(N,)``: which are still searched."""
        self.ends = torch.ones_like(images)
        """Where the best rays end."""
        self.radii = of_each(1)
        """Where they succeed: the smallest radius so far; the whole box, if nowhere yet."""
        self.is_found = torch.zeros_like(is_open)
        self.tried = self.ends.clone()
        """The ends that are being tried, and become the best as soon as they pass the check."""
        self.is_narrowed = torch.zeros_like(is_open)
        """Whether their radius is being looked for, between ``low`` and ``radii``."""
        self.low, self.leaps = of_each(0), of_each(0)
        self.turns = torch.zeros(is_open.shape, dtype=torch.int64, device=images.device)
        """Ends tried so far: the starts; then rounds of the corner and block after block."""
        # 1, 2, 4, … blocks, at last as many as pixels; blocks of all stages are numbered through.
        num_pixels = images[0].numel()
        num_blocks = [2**stage for stage in range((num_pixels - 1).bit_length())]
        self.num_blocks = torch.tensor([*num_blocks, num_pixels], device=images.device)
        self.stage_ends = self.num_blocks.cumsum(0)
        self.places = torch.arange(num_pixels, device=images.device)

    def starts(self, ends: Tensor, chosen: Tensor, num_starts: Tensor) -> None:
        """Take the first ends: all of them, ``(N, T)`` for each image, and how many count."""
        self.first_ends, self.chosen, self.num_starts = ends, chosen, num_starts

    def ask(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The next points to ask about, for images by their indices, and their radii."""
        is_new = ~self.is_narrowed[indices]
        new = indices[is_new]
        self.tried[new] = self._next(new)
        low, radii, leaps = self.low[indices], self.radii[indices], self.leaps[indices]
        middle = (low + radii) / 2
        inwards = torch.where(leaps > 0, torch.maximum(radii - leaps, middle), middle)
        at = torch.where(is_new, radii, inwards)
        return find_ball("linf").project(self.tried[indices], self.images[indices], at), at

    def hear(self, indices: Tensor, at: Tensor, has_succeeded: Tensor) -> None:
        """Take in the answers at those radii."""
        was_narrowed = self.is_narrowed[indices]
        is_better = has_succeeded & ~was_narrowed
        better, won = indices[is_better], indices[has_succeeded]
        self.ends[better] = self.tried[better]
        self.is_found[better] = True
        self.is_narrowed[better] = True
        self.low[better] = 0  # the clean image, which has not succeeded
        is_start = self.turns[better] < self.num_starts[better]
        self.leaps[better] = self.tolerance * (~is_start).to(self.leaps)
        self.radii[won] = at[has_succeeded]
        farther = indices[has_succeeded & was_narrowed]
        self.leaps[farther] *= 2
        missed = indices[~has_succeeded & was_narrowed]
        self.low[missed] = at[~has_succeeded & was_narrowed]
        self.leaps[missed] = 0
        # Rounding apart, an interval is then no wider than the tolerance: steps double it.
        is_done = self.radii[indices] - self.low[indices] < 1.5 * self.tolerance
        done = indices[torch.where(self.is_narrowed[indices], is_done, True)]
        self.is_narrowed[done] = False
        self.turns[done] += 1
        self.is_open[indices] = ~self.is_found[indices] | (self.radii > self.eps)[indices]

    def adv_images(self) -> Tensor:
        """The best images within eps."""
        at = torch.minimum(self.radii, self.eps).where(self.is_found, 0)
        return find_ball("linf").project(self.ends, self.images, at)

    def _next(self, indices: Tensor) -> Tensor:
        """Ends to try next, ``(n, C, H, W)``."""
        turns, num_starts = self.turns[indices], self.num_starts[indices]
        images, ends = self.images[indices], self.ends[indices]
        which = turns.clamp(max=self.chosen.shape[1] - 1)
        first = self.first_ends[self.chosen[indices].gather(1, which[:, None]).squeeze(1)]
        corners = torch.where(ends == images, images, (ends > images).to(images))
        # A pixel without a direction takes the one with more room.
        opposite = torch.where(ends == images, images <= 0.5, ends < images).to(images)
        numbers = (turns - num_starts).clamp(min=0) % (self.stage_ends[-1] + 1)
        later = torch.where(self._block(numbers - 1).view_as(images), opposite, ends)
        later = torch.where(_of_images(numbers == 0), corners, later)
        return torch.where(_of_images(turns < num_starts), first, later)

    def _block(self, numbers: Tensor) -> Tensor:
        """``(n, pixels)``: the pixels of the blocks with those numbers, none of block -1."""
        stages = torch.bucketize(numbers, self.stage_ends, right=True)
        num_blocks = self.num_blocks[stages]
        in_stage = numbers - (self.stage_ends[stages] - num_blocks)
        return self.places * num_blocks[:, None] // len(self.places) == in_stage[:, None]


def _labels_of(model: Classifier, images: Tensor) -> Tensor:
    """Labels of any number of images, a batch at a time."""
    return torch.cat([model.predict(chunk) for chunk in images.split(default_batch_size(images))])


def _of_images(are_so: Tensor) -> Tensor:
    """Booleans ``(N,)``, to choose between images."""
    return are_so.view(-1, 1, 1, 1)
