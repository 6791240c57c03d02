"""Selective and orthogonal PGD: one loss for the classifier and one for its detector.

A model with null is a classifier that can be wrong and a detector that can reject:

    a = max_{k != y} z_k - z_y       the classifier's loss, over the real classes
    b = max_{k != y} z_k - z_null    the detector's loss

The gradients of the two losses oppose each other when summed. So each step increases one of them:
a until the classifier is wrong, then b (selective); or the part of its gradient that is orthogonal
to the other's, which leaves the other unchanged to first order (orthogonal).

    g = grad a if a <= 0 else grad b          g <- g - (g . h / |h|^2) h,  h the other gradient

(Bryniarski, Hingun, Pachuca, Wang, Carlini 2021, "Evading adversarial example detection defenses
with orthogonal projected gradient descent".) Differences: both losses are margins, which are
positive exactly on success, and steps are those of the norm: in L-infinity the sign of the
orthogonal part, which is itself no longer quite orthogonal. Without null this is PGD on a.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.pgd import PGDSteps
from nullclass.attacks.state import AttackState, IndexedLoss
from nullclass.attacks.steps import input_gradient
from nullclass.core.norms import expand_eps, find_ball


@dataclass(frozen=True)
class SelectivePGD(PGDSteps):
    """PGD on the loss of the classifier or of the detector, whichever is not yet positive.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    variant: Literal["selective", "orthogonal"] = "selective"
    """``orthogonal`` needs a second forward and backward pass per step."""
    num_steps: int = 40
    num_restarts: int = 1
    relative_step: float | None = None
    objective: ObjectiveName = field(default="fool", init=False)

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return the loss that is not yet positive, the classifier's first."""
        return [lambda logits, indices: self._losses(state, logits, indices)[0]]

    def adjust(
        self, state: AttackState, indices: Tensor, adv_images: Tensor, gradient: Tensor
    ) -> Tensor:
        """Return the gradients, or their parts that are orthogonal to those of the other loss."""
        if self.variant == "selective" or not state.model.has_null:
            return gradient
        other, _ = input_gradient(
            state.model, adv_images, lambda logits: self._losses(state, logits, indices)[1]
        )
        unit = find_ball("l2").steepest(other, other)
        length = (gradient * unit).flatten(1).sum(dim=1)
        return gradient - expand_eps(length, gradient) * unit

    def _losses(self, state: AttackState, logits: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss to increase and the other one, ``(N,)`` each."""
        labels, num_classes = state.labels[indices], state.model.num_classes
        classifier, detector = two_losses(logits, labels, num_classes)
        is_wrong = classifier > 0
        return (
            torch.where(is_wrong, detector, classifier),
            torch.where(is_wrong, classifier, detector),
        )


def two_losses(logits: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the classifier's and the detector's loss, ``(N,)`` each.

    Both are positive exactly where the image is fooled. Without null the detector accepts every
    image, and its loss is the classifier's.
    """
    real = logits[:, :num_classes]
    at_label = real.gather(1, labels[:, None])
    is_label = torch.zeros_like(real, dtype=torch.bool).scatter(1, labels[:, None], True)
    best = real.masked_fill(is_label, float("-inf")).amax(dim=1)
    classifier = best - at_label.squeeze(1)
    has_null = logits.shape[1] > num_classes
    return classifier, best - logits[:, num_classes] if has_null else classifier
