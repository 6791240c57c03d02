"""Adversarial training of a classifier that may refuse.

    L = 1/2 (CE(z(x), y) - log(p_y(x_adv) + p_null(x_adv)))

x_adv climbs the null-aware margin, so that it is an image that fools, and either answer, the label
or null, is right for it. Clean images must be answered, or all would be null. Without a null class
it is Madry et al. 2018: the attacked images' cross-entropy alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.core.outcomes import Outcome, outcomes, predictions
from nullclass.models.classifier import Classifier
from nullclass.training.robust.base import EpsSchedule, LossOutput, StepLoss
from nullclass.training.robust.perturbed import perturbed


@dataclass(frozen=True)
class AdversarialLoss:
    """Null-aware PGD images, which may be answered with their label or with null."""

    eps: float
    """Of the attack, in pixel units."""
    num_steps: int = 7
    """Of the attack."""
    warmup: float = 0.0
    """Share of all steps on clean images alone."""
    ramp: float = 0.5
    """Share of all steps after which ε is reached."""

    def __post_init__(self) -> None:
        """Refuse an attack without steps."""
        self.rise  # noqa: B018 - refuses an eps that never rises
        if self.num_steps < 1:
            raise UserError(f"the attack needs a step at least, not {self.num_steps}")

    @property
    def rise(self) -> EpsSchedule:
        """How ε rises."""
        return EpsSchedule(self.eps, self.warmup, self.ramp)

    def settings(self) -> dict[str, Any]:
        """See :class:`nullclass.training.robust.base.RobustLoss`."""
        return asdict(self)

    def initialise(self, model: Classifier, generator: torch.Generator) -> None:
        """See :class:`nullclass.training.robust.base.RobustLoss`: the model's own."""

    def bind(self, model: Classifier) -> StepLoss:
        """See :class:`nullclass.training.robust.base.RobustLoss`."""
        if model.num_nulls > 1:
            raise UserError("adversarial training knows one null logit at most, not twins")

        def loss(
            images: Tensor, labels: Tensor, progress: float, generator: torch.Generator
        ) -> LossOutput:
            eps = self.eps * self.rise.share(progress)
            adv_images = perturbed(model, images, labels, eps, self.num_steps, generator)
            logits = model.all_logits(adv_images)
            scored = outcomes(predictions(logits.detach(), model.num_classes), labels)
            num_right = int((scored != Outcome.FOOLED).sum())
            if not model.has_null:
                return LossOutput(cross_entropy(logits, labels), num_right)
            log_shares = logits.float().log_softmax(dim=1)
            accepted = log_shares.gather(1, labels[:, None]).squeeze(1)
            refused = -torch.logaddexp(accepted, log_shares[:, -1]).mean()
            return LossOutput(
                (refused + cross_entropy(model.all_logits(images), labels)) / 2, num_right
            )

        return loss
