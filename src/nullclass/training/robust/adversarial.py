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

from nullclass.attacks.losses import find_objective
from nullclass.attacks.steps import ascend, input_gradient
from nullclass.core.checks import check_count
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.core.modules import frozen
from nullclass.core.norms import find_ball
from nullclass.core.outcomes import Outcome, outcomes, predictions
from nullclass.models.classifier import Classifier
from nullclass.training.eps_schedule import ADVERSARIAL_RAMP
from nullclass.training.robust.base import LossOutput, RobustLoss, StepLoss


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


def perturbed(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Return images ``(N, C, H, W)`` in [0,1] within L∞ ``eps`` that are likely to fool.

    ``num_steps`` steps of ``2.5 eps / num_steps`` (Madry et al. 2018) from a random start maximise
    the logsumexp margin, in which null is a defence.
    """
    objective, ball = find_objective("fool"), find_ball("linf")

    def loss(logits: Tensor) -> Tensor:
        return objective.loss(logits, labels, model.num_classes, "logsumexp-margin")

    adv_images = (images + ball.random(images, eps, generator)).clamp(0, 1)
    step_size = 2.5 * eps / num_steps
    with frozen(model):
        for _ in range(num_steps):
            gradient, _ = input_gradient(model, adv_images, loss)
            adv_images = ascend(
                adv_images, gradient, images, eps=eps, step_size=step_size, norm=ball
            )
    return adv_images
