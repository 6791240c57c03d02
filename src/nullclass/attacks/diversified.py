"""Diversified PGD: starts that differ in their logits, then a few decaying steps.

    start:  x <- random point of the ball
            num_start_steps times  x <- project(x + eps * step(gradient of w . z))
    steps:  num_steps times        x <- project(x + s_k * step(gradient of the loss))

w is uniform in [-1, 1] for every logit and image, negative for the answers that defend; s_k falls
from eps to a tenth of it as a cosine.

Random points of a ball hardly change the logits; these starts do (ODI: Tashiro, Song & Ermon 2020,
"Diversity can be transferred", eq. 3). Many short runs, first on all images and then on those
nearest to a success, find what long ones find at a tenth of the cost (A3: Liu et al. 2022,
"Practical evaluation of adversarial robustness via adaptive auto attack").

Differences: null defends too, so its weight is negative; weights are drawn anew in every round, not
learned from earlier successes; rounds take the losses in turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.pgd import PGDSteps
from nullclass.attacks.state import AttackState, IndexedLoss, Precision
from nullclass.attacks.steps import ascend
from nullclass.core.norms import uniform

LAST_STEP = 0.1
"""The last step as a share of the first."""

NUM_FULL_ROUNDS = 3
"""Rounds that attack all active images; each later one attacks half the share of the one before."""

SMALLEST_SHARE = 0.25
"""The smallest share of the active images that a round attacks."""


@dataclass(frozen=True)
class DiversifiedPGD(PGDSteps):
    """PGD from diversified starts, round by round.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    objective: ObjectiveName = "fool"
    num_start_steps: int = 7
    """Steps along the random weights of the logits."""
    num_steps: int = 8
    num_restarts: int = 10
    """Rounds. The first take all active images, later ones those with the largest margin so far."""
    relative_step: float | None = 1.0
    """The first step; the last is a tenth of it."""
    precision: Precision = "float32"

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return the losses that rounds take in turns."""
        return [state.loss("logsumexp-margin"), state.loss("margin")]

    def step_sizes(self) -> list[float]:
        """Return shares of eps that fall as a cosine."""
        num_falls = max(self.num_steps - 1, 1)
        falls = [(1 + math.cos(math.pi * k / num_falls)) / 2 for k in range(self.num_steps)]
        sizes = zip(super().step_sizes(), falls, strict=True)
        return [size * (LAST_STEP + (1 - LAST_STEP) * fall) for size, fall in sizes]

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        losses = self.losses(state)
        state.evaluate_clean()
        for number in range(self.num_restarts):
            share = 0.5 ** max(0, number - NUM_FULL_ROUNDS + 1)
            ranked = state.nearest_to_success()
            num_chosen = math.ceil(max(share, SMALLEST_SHARE) * len(ranked))
            for indices in state.split(ranked[:num_chosen]):
                start = self._start(state, indices, generator)
                left = state.active[indices]
                if bool(left.any()):
                    self.climb(state, indices[left], start[left], losses[number % len(losses)])

    def _start(
        self, state: AttackState, indices: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Return points of the balls ``(N, C, H, W)`` whose logits differ in random directions."""
        adv_images = state.random_start(indices, generator)
        images, eps = state.images[indices], state.eps_at(indices)
        model, labels = state.model, state.labels[indices]
        num_logits = model.num_classes + model.has_null
        weights = uniform(torch.Size((len(indices), num_logits)), images, generator)
        wins = state.objective.wins(weights, labels, model.num_classes)
        weights = torch.where(wins, 2 * weights - 1, -weights)
        for _ in range(self.num_start_steps):
            _, gradient, _ = state.forward_backward(
                indices, adv_images, lambda logits, _: (weights * logits).sum(dim=1)
            )
            adv_images = ascend(
                adv_images, gradient, images, eps=eps, step_size=eps, norm=state.norm
            )
        return adv_images
