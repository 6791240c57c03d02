"""The abstain class, trained by interval bounds (Sheikholeslami, Lotfi & Kolter 2021, section 4).

For each wrong class j, either the label or null must be sure to beat it:

    v_j = -max(lower bound of z_y - z_j, lower bound of z_null - z_j),   v_y = 0
    L   = s (CE(v, y) + label_weight CE(w, y)) + natural_weight CE(z(x), y)

s is how much of ε is reached, so that bounds come in as ε rises; in the warm-up, where s is 0, L is
CE(z(x), y) alone, whatever natural_weight. w are the worst logits under which null is wrong too
(:mod:`nullclass.training.robust.interval`), without which everything may become null. The paper
bounds the
best convex combination of the two; its ends are taken here, and the combination when the network is
certified (:mod:`nullclass.certify.learned_null`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.certify import (
    NO_ROUNDING,
    lower_bounds,
    pair_spec,
    propagate,
    read_network,
    region_around,
)
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.models.classifier import Classifier
from nullclass.training.robust.base import EpsSchedule, LossOutput, StepLoss


@dataclass(frozen=True)
class AbstainLoss:
    """Bounds under which null is as good as the label."""

    eps: float
    """What is trained for, in pixel units."""
    warmup: float = 0.04
    """Share of all steps on clean images alone."""
    ramp: float = 0.4
    """Share of all steps after which ε is reached."""
    label_weight: float = 0.5
    """Of the bounds under which null is wrong."""
    natural_weight: float = 1.0
    """Of the clean images' loss, once the warm-up is over."""

    def __post_init__(self) -> None:
        """Refuse weights under which everything may become null."""
        self.rise  # noqa: B018 - refuses an eps that never rises
        for weight in (self.label_weight, self.natural_weight):
            if not 0 <= weight < math.inf:
                raise UserError(f"the losses' weights must not be negative, but one is {weight}")
        if self.label_weight + self.natural_weight == 0:
            raise UserError("without label_weight and natural_weight every image would become null")

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
        if model.num_nulls != 1:
            raise UserError(
                "the abstain loss needs a model with one null logit: build it with has_null=True"
            )
        network = read_network(model)
        num_classes, num_logits = model.num_classes, model.num_classes + 1

        def loss(
            images: Tensor, labels: Tensor, progress: float, generator: torch.Generator
        ) -> LossOutput:
            share = self.rise.share(progress)
            logits = model.all_logits(images)
            natural = cross_entropy(logits, labels)
            if share == 0:
                right = logits.detach().argmax(dim=1) == labels
                return LossOutput(natural, int(right.sum()))
            region = region_around(images, self.eps * share, "linf", NO_ROUNDING)
            pairs = pair_spec(num_logits, images.dtype, images.device)
            bounds = lower_bounds(propagate(network, region, NO_ROUNDING), pairs, NO_ROUNDING)
            bounds = bounds.view(-1, num_logits, num_logits)
            of_label = bounds[torch.arange(len(labels)), labels]  # z_y - z_j for all j
            either = torch.maximum(of_label, bounds[:, num_classes])[:, :num_classes]
            at_label = F.one_hot(labels, num_classes).bool()
            worst = (-either).masked_fill(at_label, 0.0)
            total = F.cross_entropy(worst, labels)
            total = total + self.label_weight * F.cross_entropy(-of_label, labels)
            total = share * total + self.natural_weight * natural
            stands = worst.detach().masked_fill(at_label, -torch.inf).amax(dim=1) < 0
            return LossOutput(total, int(stands.sum()))

        return loss
