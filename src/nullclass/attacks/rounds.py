"""PGD in rounds: first on all active images, then on fewer, those nearest to a success."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from nullclass.attacks.pgd import PGDSteps
from nullclass.attacks.state import AttackState

NUM_FULL_ROUNDS = 3
"""Rounds that attack all active images; each later one attacks half the share of the one before."""

SMALLEST_SHARE = 0.25
"""The smallest share of the active images that a round attacks."""


class PGDRounds(PGDSteps):
    """Runs from new starts, round by round, in steps that fall as a cosine.

    An image whose margin is large after some rounds is more likely to be fooled by the next (A3:
    Liu et al. 2022, "Practical evaluation of adversarial robustness via adaptive auto attack").
    """

    @abstractmethod
    def start(
        self, state: AttackState, indices: Tensor, number: int, generator: torch.Generator | None
    ) -> Tensor:
        """Return the starts ``(N, C, H, W)`` of a batch in the round of this number, from 0."""

    def step_sizes(self) -> list[float]:
        """Return shares of eps that fall as a cosine from ``relative_step`` to a tenth of it."""
        num_falls = max(self.num_steps - 1, 1)
        falls = [(1 + math.cos(math.pi * k / num_falls)) / 2 for k in range(self.num_steps)]
        sizes = zip(super().step_sizes(), falls, strict=True)
        return [size * (0.1 + 0.9 * fall) for size, fall in sizes]

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`. Rounds take the losses in turns."""
        losses = self.losses(state)
        state.evaluate_clean()
        for number in range(self.num_restarts):
            share = max(0.5 ** max(0, number - NUM_FULL_ROUNDS + 1), SMALLEST_SHARE)
            ranked = state.nearest_to_success()
            for indices in state.split(ranked[: math.ceil(share * len(ranked))]):
                start = self.start(state, indices, number, generator)
                left = state.active[indices]  # making a start may succeed
                if bool(left.any()):
                    self.climb(state, indices[left], start[left], losses[number % len(losses)])
