"""RayS: a search over directions that uses predicted labels only.

    x(z, r) = project(z onto the L-infinity ball of radius r around x)
    z <- z'  if x(z', r) succeeds; then r shrinks along z',    z' = z with one block flipped

Chen & Gu 2020, "RayS: A Ray Searching Method for Hard-label Adversarial Attack" (algorithms 1 to
3). A ray leads to its end z: a corner of the box, for the paper's sign vector. A flipped pixel goes
to the other end of the box. The blocks are the image, then its halves, and so on down to single
pixels, then all over again. One query decides whether a flip helps: the point at the smallest
radius so far must succeed too (the fast check). Only then is the new radius searched.

Success is the objective's, so null is none for ``fool``. Hence two departures; a third saves
queries.

- Nearly every sign vector ends in null, so that no start would be found. Rays start towards
  reference images whose prediction is a success: the first end z is that image, which the ray
  reaches at its own distance. Then, and before every round of flips, the corner that the ray points
  to is tried. The paper's start, towards white, comes last.
- A ray that succeeds may end in null farther out, and nearer too. So success is not assumed to be
  monotone in the radius: the upper end of the interval is always a point that succeeded, the lower
  end one that did not.
- Most flips shorten a ray by very little, so the new radius is searched from the old one inwards in
  steps that double, and then by bisection: two queries instead of ten.

An image is done when its radius is within eps. The search does not depend on eps, so that a success
at a small eps is found at a larger one, with no more queries.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import BaseAttack
from nullclass.attacks.dataset import nearest_of_each, subsample
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState, logits_of
from nullclass.core.norms import Eps, find_ball
from nullclass.core.outcomes import outcomes, predictions
from nullclass.data.arrays import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.results.schema import Access


@dataclass(frozen=True)
class RayS(BaseAttack):
    """Direction search on labels alone (hard-label), L-infinity only; deterministic.

    Where no radius within eps is found, the result is the image on the best ray at eps, or the
    clean image without a ray. Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    reference_images: LabelledImages | None = field(default=None, repr=False, compare=False)
    objective: ObjectiveName = "fool"
    num_queries: int = 2000
    """Queries per image, at most. The clean image and the reference images are extra."""
    num_starts: int = field(default=5, metadata={"minimum": 0})
    """Reference images tried as first ends, each of another prediction, the nearest (L2) first."""
    num_candidates: int = 1000
    tolerance: float = 1e-3
    """Accuracy of a radius in pixel units, as in the published code."""
    access: ClassVar[Access] = "labels"
    norms: ClassVar[tuple[str, ...]] = ("linf",)

    def with_reference_images(self, images: LabelledImages) -> RayS:
        """See :class:`nullclass.attacks.base.TakesReferenceImages`."""
        return replace(self, reference_images=images) if self.reference_images is None else self

    @torch.no_grad()
    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        model, labels, objective = state.model, state.labels, state.objective
        predicted = _predict(model, state.images, state.batch_size)
        is_reached = objective.is_reached(outcomes(predicted, labels))
        rays = _Rays(state.images, ~is_reached, state.eps, self.tolerance)
        if rays.active.any():
            rays.set_starts(*self._starts(state))
        for _ in range(self.num_queries):
            active = rays.active.nonzero().squeeze(1)
            if not len(active):
                break
            for indices in active.split(state.batch_size):
                points, radii = rays.propose(indices)
                scored = outcomes(_predict(model, points, state.batch_size), labels[indices])
                rays.update(indices, radii, objective.is_reached(scored))
        state.adv_images = rays.adv_images()

    def _starts(self, state: AttackState) -> tuple[Tensor, Tensor, Tensor]:
        """Return ends ``(M, C, H, W)``, those of each image ``(N, T)``, and how many count."""
        images = state.images
        reference = subsample(self.reference_images, images, self.num_candidates)
        chosen, is_candidate = nearest_of_each(
            torch.cdist(images.flatten(1), reference.flatten(1)),
            _predict(state.model, reference, state.batch_size),
            state.labels,
            state.objective,
            num_nearest=1,
        )
        num_starts = is_candidate.sum(dim=1).clamp(max=self.num_starts)
        white = torch.full((len(images), 1), len(reference), device=images.device)
        chosen = torch.cat([chosen, white], dim=1).scatter(1, num_starts[:, None], white)
        return torch.cat([reference, torch.ones_like(reference[:1])]), chosen, num_starts + 1


class _Rays:
    """The best ray of every image, and the one being tried."""

    def __init__(self, images: Tensor, active: Tensor, eps: Eps, tolerance: float) -> None:
        self.images, self.tolerance = images, tolerance
        self.eps = torch.as_tensor(eps, dtype=images.dtype, device=images.device).expand(
            active.shape
        )
        self.active = active & (self.eps > 0)
        self.ends = torch.ones_like(images)
        """Ends of the best rays."""
        self.radii = torch.ones_like(self.eps)
        """The smallest radius that succeeded so far, or the box."""
        self.is_found = torch.zeros_like(active)
        self.tried = self.ends.clone()
        """Ends being tried; they become the best as soon as they pass the fast check."""
        self.is_searching = torch.zeros_like(active)
        """Whether the radius is being searched between ``low`` and ``radii``."""
        self.low, self.leaps = torch.zeros_like(self.eps), torch.zeros_like(self.eps)
        self.turns = torch.zeros(active.shape, dtype=torch.int64, device=images.device)
        """Ends tried so far: the starts, then rounds of the corner and block after block."""
        # 1, 2, 4, … blocks, at last one per pixel; the blocks of all stages are numbered through.
        num_pixels = images[0].numel()
        num_blocks = [2**stage for stage in range((num_pixels - 1).bit_length())]
        self.num_blocks = torch.tensor([*num_blocks, num_pixels], device=images.device)
        self.stage_ends = self.num_blocks.cumsum(0)
        self.pixels = torch.arange(num_pixels, device=images.device)

    def set_starts(self, ends: Tensor, chosen: Tensor, num_starts: Tensor) -> None:
        """Set the first ends; see :meth:`RayS._starts`."""
        self.first_ends, self.chosen, self.num_starts = ends, chosen, num_starts

    def propose(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next points to query for some images, and their radii."""
        is_new = ~self.is_searching[indices]
        new = indices[is_new]
        self.tried[new] = self._next_ends(new)
        low, radii, leaps = self.low[indices], self.radii[indices], self.leaps[indices]
        middle = (low + radii) / 2
        inwards = torch.where(leaps > 0, torch.maximum(radii - leaps, middle), middle)
        radii = torch.where(is_new, radii, inwards)
        return find_ball("linf").project(self.tried[indices], self.images[indices], radii), radii

    def update(self, indices: Tensor, radii: Tensor, succeeded: Tensor) -> None:
        """Take in which of the points at those radii succeeded."""
        was_searching = self.is_searching[indices]
        # A new end that passes the fast check.
        better = indices[succeeded & ~was_searching]
        self.ends[better] = self.tried[better]
        self.is_found[better] = self.is_searching[better] = True
        self.low[better] = 0  # the clean image, which has not succeeded
        is_start = self.turns[better] < self.num_starts[better]
        self.leaps[better] = self.tolerance * (~is_start).to(self.leaps)
        # The radius of the end.
        self.radii[indices[succeeded]] = radii[succeeded]
        self.leaps[indices[succeeded & was_searching]] *= 2
        missed = ~succeeded & was_searching
        self.low[indices[missed]] = radii[missed]
        self.leaps[indices[missed]] = 0
        # The interval ends no wider than the tolerance, up to rounding: steps double it.
        is_narrow = self.radii[indices] - self.low[indices] < 1.5 * self.tolerance
        done = indices[torch.where(self.is_searching[indices], is_narrow, True)]
        self.is_searching[done] = False
        self.turns[done] += 1
        self.active[indices] = ~self.is_found[indices] | (self.radii > self.eps)[indices]

    def adv_images(self) -> Tensor:
        """Return the images on the best rays, within eps."""
        radii = torch.minimum(self.radii, self.eps).where(self.is_found, 0)
        return find_ball("linf").project(self.ends, self.images, radii)

    def _next_ends(self, indices: Tensor) -> Tensor:
        turns, num_starts = self.turns[indices], self.num_starts[indices]
        images, ends = self.images[indices], self.ends[indices]
        rank = turns.clamp(max=self.chosen.shape[1] - 1)
        first = self.first_ends[self.chosen[indices].gather(1, rank[:, None]).squeeze(1)]
        corners = torch.where(ends == images, images, (ends > images).to(images))
        # A pixel without a direction takes the one with more room.
        flipped = torch.where(ends == images, images <= 0.5, ends < images).to(images)
        numbers = (turns - num_starts).clamp(min=0) % (self.stage_ends[-1] + 1)
        later = torch.where(self._block(numbers - 1).view_as(images), flipped, ends)
        later = torch.where((numbers == 0).view(-1, 1, 1, 1), corners, later)
        return torch.where((turns < num_starts).view(-1, 1, 1, 1), first, later)

    def _block(self, numbers: Tensor) -> Tensor:
        """Return masks ``(n, pixels)`` of the blocks with those numbers; block -1 is empty."""
        stages = torch.bucketize(numbers, self.stage_ends, right=True)
        num_blocks = self.num_blocks[stages]
        in_stage = numbers - (self.stage_ends[stages] - num_blocks)
        return self.pixels * num_blocks[:, None] // len(self.pixels) == in_stage[:, None]


def _predict(model: Classifier, images: Tensor, batch_size: int) -> Tensor:
    return predictions(logits_of(model, images, batch_size), model.num_classes)
