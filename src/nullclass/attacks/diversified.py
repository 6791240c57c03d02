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

from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.rounds import PGDRounds
from nullclass.attacks.state import AttackState, IndexedLoss, Precision
from nullclass.attacks.steps import ascend
from nullclass.core.norms import uniform


@dataclass(frozen=True)
class DiversifiedPGD(PGDRounds):
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

    def start(
        self, state: AttackState, indices: Tensor, number: int, generator: torch.Generator | None
    ) -> Tensor:
        """Return points of the balls whose logits differ in random directions."""
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
