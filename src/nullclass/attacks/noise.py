"""Random noise of size eps: a yardstick for other attacks and for defences.

    x' = project(x + delta),    delta uniform in the ball, and in turn on its boundary

On the boundary every pixel moves by eps up or down (L-infinity's corners), or a uniformly drawn
perturbation is scaled to the full budget (L2, L1). An attack that finds less than this is broken,
and so is a defence that rejects noise: both are red flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import BaseAttack
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState
from nullclass.core.norms import Eps, expand_eps
from nullclass.results.schema import Access


@dataclass(frozen=True)
class Noise(BaseAttack):
    """The best of the clean image and some noisy ones."""

    objective: ObjectiveName = "fool"
    num_draws: int = 10
    """Noisy images per image: uniform in the ball and on its boundary in turn."""
    access: ClassVar[Access] = "none"

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        state.evaluate_clean()
        for draw in range(self.num_draws):
            for indices in state.batches():
                images, eps = state.images[indices], state.eps_at(indices)
                delta = state.norm.random(images, eps, generator)
                if draw % 2 == 1:
                    delta = _to_boundary(delta, eps, state)
                adv_images = state.norm.project(images + delta, images, eps)
                state.evaluate(indices, adv_images)


def _to_boundary(delta: Tensor, eps: Eps, state: AttackState) -> Tensor:
    if state.norm_name == "linf":
        return expand_eps(eps, delta) * delta.sign()
    size = expand_eps(state.norm.size(delta), delta)
    assert isinstance(size, Tensor)
    return delta * (expand_eps(eps, delta) / size.clamp(min=torch.finfo(size.dtype).tiny))
