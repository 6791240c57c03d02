"""Adversarial training of a classifier that may refuse.

    L = 1/2 (CE(z(x), y) - log(p_y(x_adv) + p_null(x_adv)))

x_adv maximises the null-aware margin, so it is an image that fools; both the label and null are
correct for it. The clean loss keeps clean images from becoming null. Without a null class this is
Madry et al. 2018: the cross-entropy of the adversarial images alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.core.checks import check_count
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.core.outcomes import Outcome, outcomes, predictions
from nullclass.models.classifier import Classifier
from nullclass.training.eps_schedule import ADVERSARIAL_RAMP
from nullclass.training.robust.base import LossOutput, RobustLoss, StepLoss
from nullclass.training.robust.perturbed import perturbed


@dataclass(frozen=True)
class AdversarialLoss(RobustLoss):
    """Null-aware PGD images, for which the label and null are both correct."""

    num_steps: int = 7
    """Gradient steps of the attack."""
    warmup: float = ADVERSARIAL_RAMP[0]
    ramp: float = ADVERSARIAL_RAMP[1]

    def __post_init__(self) -> None:
        """Check all values."""
        super().__post_init__()
        check_count("num_steps", self.num_steps)

    def bind(self, model: Classifier) -> StepLoss:
        """See :class:`nullclass.training.robust.base.RobustLoss`."""
        if model.num_nulls > 1:
            raise UserError("adversarial training takes at most one null logit, not one per class")

        def loss(
            images: Tensor, labels: Tensor, progress: float, generator: torch.Generator
        ) -> LossOutput:
            eps = self.eps * self.schedule.fraction(progress)
            adv_images = perturbed(model, images, labels, eps, self.num_steps, generator)
            logits = model.all_logits(adv_images)
            results = outcomes(predictions(logits.detach(), model.num_classes), labels)
            num_robust = int((results != Outcome.FOOLED).sum())
            if not model.has_null:
                return LossOutput(cross_entropy(logits, labels), num_robust)
            log_probs = logits.float().log_softmax(dim=1)
            of_label = log_probs.gather(1, labels[:, None]).squeeze(1)
            adv_loss = -torch.logaddexp(of_label, log_probs[:, -1]).mean()
            clean_loss = cross_entropy(model.all_logits(images), labels)
            return LossOutput((adv_loss + clean_loss) / 2, num_robust)

        return loss
