"""Refined PGD: from the best image so far, and again and again from points near it.

    start:  x <- best image so far, from the second round on x <- project(x + noise * random point)
    steps:  num_steps times  g <- momentum * g + grad / |grad|_1,  x <- project(x + s_k * step(g))

s_k falls from relative_step * eps to a tenth of it as a cosine.

Where a model's wrong answers lie in narrow regions, a point close to one is worth more than a fresh
start: of images that dozens of random starts leave, a single round fools many. In an ensemble the
best image is that of all earlier attacks; alone, the first round starts at the clean image.
Searching from perturbed optima is iterated local search (Lourenço, Martin & Stützle 2003); going on
from the best point in smaller steps is a rule of Auto-PGD (Croce & Hein 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.attacks.losses import LossName, ObjectiveName
from nullclass.attacks.rounds import PGDRounds
from nullclass.attacks.state import AttackState, IndexedLoss, Precision


@dataclass(frozen=True)
class RefinedPGD(PGDRounds):
    """PGD in small falling steps from the best image so far, round by round.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    objective: ObjectiveName = "fool"
    loss: LossName = "margin"
    num_steps: int = 40
    num_restarts: int = 12
    """Rounds; all but the first start near the best image. The first take all active images, later
    ones those with the largest margin so far."""
    relative_step: float | None = 0.1
    """The first step; the last is a tenth of it."""
    noise: float = 0.5
    """Radius around the best image as a share of eps."""
    momentum: float = 0.75
    along_gradient: bool = False
    """Whether to step along the gradient itself. In L-infinity the pixels of large gradients then
    move first, which fools images that steps of equal size in all pixels do not (LOG.md)."""
    precision: Precision = "float32"

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return the objective's loss."""
        return [state.loss(self.loss)]

    def start(
        self, state: AttackState, indices: Tensor, number: int, generator: torch.Generator | None
    ) -> Tensor:
        """Return the best images so far, or points near them."""
        best = state.adv_images[indices]
        return state.random_near(best, self.noise, indices, generator) if number else best
