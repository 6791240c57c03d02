"""Projected gradient steps on cross-entropy (Madry et al. 2018), from the clean image.

    x <- project(x + 2.5 size / num_steps * steepest(d CE(f(x), y) / dx))

The steps go on whether the model is fooled or not: training wants images of a size, not successes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.core.norms import expand_eps, find_ball
from nullclass.models.classifier import Classifier
from nullclass.nulls.perturb.base import check_asked, gradient_of


@dataclass(frozen=True)
class PGDPerturbation:
    """Several steps within the ball; deterministic."""

    num_steps: int = 10
    """Gradient steps; the first uses the caller's gradient if there is one."""
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        if self.num_steps < 1:
            raise UserError(f"the perturbation needs at least one step, not {self.num_steps}")

    def settings(self) -> dict[str, Any]:
        """The number of steps."""
        return asdict(self)

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        sizes: Tensor,
        norm: str,
        generator: torch.Generator | None = None,
        *,
        gradient: Tensor | None = None,
    ) -> Tensor:
        """See :class:`nullclass.nulls.perturb.base.Perturbation`."""
        check_asked(self, images, sizes, norm)
        ball, clean = find_ball(norm), images.detach()
        length = 2.5 / self.num_steps * expand_eps(sizes, clean)
        perturbed = clean
        for done in range(self.num_steps):
            if gradient is None or done > 0:
                gradient = gradient_of(model, perturbed, labels)
            step = length * ball.step(gradient, perturbed)
            perturbed = ball.project(perturbed + step, clean, sizes)
        return perturbed
