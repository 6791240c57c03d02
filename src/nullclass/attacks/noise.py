"""Random noise of size eps: what no attacker has to work for.

    x' = project(x + delta),    delta uniform in the ball, and in turn on its edge

On the edge means every pixel moved by eps up or down (L-infinity's corners), or a uniformly drawn
perturbation stretched to the whole budget (L2, L1). An attack that finds less than this is broken,
and so is a defence that refuses noise: both are red flags, so this is a yardstick, not an attack
to rely on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.losses import ObjectiveName, find_objective
from nullclass.attacks.state import AttackState
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps, expand_eps
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class Noise:
    """The best of the clean image and some noisy ones."""

    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    num_draws: int = 10
    """Noisy images tried; the first, third, … are uniform in the ball, the others on its edge."""
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "none"

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        if self.num_draws < 1:
            raise UserError(f"noise needs at least one draw, not {self.num_draws}")
        find_objective(self.objective)

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
        """See :class:`nullclass.attacks.base.Attack`."""
        eps = check_eps(eps, norm, images.shape)
        standing = AttackState(
            model, images, labels, eps, norm, self.objective, batch_size=batch_size
        )

        nearness = standing.margin("hard")
        with frozen(model):
            standing.try_clean(nearness)
            for draw in range(self.num_draws):
                for indices in standing.batches():
                    clean, allowed = standing.images[indices], standing.eps_of(indices)
                    delta = standing.norm.random(clean, allowed, generator)
                    if draw % 2 == 1:
                        delta = _to_the_edge(delta, allowed, norm)
                    tried = standing.norm.project(clean + delta, clean, allowed)
                    standing.try_out(indices, tried, nearness)
        return standing.adv_images


def _to_the_edge(delta: Tensor, eps: Eps, norm: str) -> Tensor:
    if norm == "linf":
        return expand_eps(eps, delta) * delta.sign()
    order = {"l2": 2, "l1": 1}[norm]
    size: Tensor = torch.linalg.vector_norm(delta, order, dim=(1, 2, 3), keepdim=True)
    return delta * (expand_eps(eps, delta) / size.clamp(min=torch.finfo(size.dtype).tiny))
