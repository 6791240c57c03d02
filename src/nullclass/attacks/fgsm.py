"""FGSM: one step along the sign of the gradient (Goodfellow et al. 2015, section 4).

    x' = clamp(x + eps * steepest(grad), 0, 1)

For ``untargeted`` the gradient is that of plain cross-entropy, as in the notebook: it ignores null,
and it is exactly zero where cross-entropy saturates, so that the image does not change. For
``fool`` and ``force-null`` it is that of the logsumexp margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import BaseAttack
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState
from nullclass.attacks.steps import Loss, input_gradient
from nullclass.core.losses import cross_entropy
from nullclass.core.modules import frozen
from nullclass.core.norms import step_along
from nullclass.core.outcomes import check_finite
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class FGSM(BaseAttack):
    """One step from the clean image; deterministic."""

    objective: ObjectiveName = "fool"
    """What the attacker wants; ``untargeted`` is the notebook's attack."""
    is_iterative: ClassVar[bool] = False

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        direction = self._direction(state)
        state.adv_images = step_along(direction, state.images, state.eps, state.norm_name)

    def direction(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        norm: str,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return directions ``(N, C, H, W)`` of size 1 in the norm, 0 without a gradient.

        The images of all eps lie on the lines along them (:func:`nullclass.core.norms.step_along`).
        """
        state = self.begin(model, images, labels, eps=0.0, norm=norm, batch_size=batch_size)
        with frozen(model):
            return self._direction(state)

    def _direction(self, state: AttackState) -> Tensor:
        direction = torch.zeros_like(state.images)
        for indices in state.batches():
            images = state.images[indices]
            gradient, losses = input_gradient(state.model, images, self._loss(state, indices))
            check_finite(losses)
            direction[indices] = state.norm.steepest(gradient, images)
        return direction

    def _loss(self, state: AttackState, indices: Tensor) -> Loss:
        if self.objective == "untargeted":
            labels = state.labels[indices]
            return lambda logits: cross_entropy(logits, labels, reduction="none")
        return state.loss_at("logsumexp-margin", indices)
