"""The abstain class, trained by interval bounds (Sheikholeslami, Lotfi & Kolter 2021, section 4).

For each wrong class j, either the label or null must provably beat it:

    v_j = -max(lower bound of z_y - z_j, lower bound of z_null - z_j),   v_y = 0
    L   = s (CE(v, y) + label_weight CE(w, y)) + natural_weight CE(z(x), y)

s is the fraction of ε reached, so that the bounds enter as ε increases. During warm-up, where s is
0, L is CE(z(x), y) for any natural_weight. w are the worst logits if null is wrong too
(:mod:`nullclass.training.robust.interval`); without them the model may map all images to null. The
paper bounds the best convex combination of the two differences. Training uses its end points, and
certification the combination (:mod:`nullclass.certify.margins`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.certify import NO_ROUNDING, lower_bounds, pair_spec, propagate, region_around
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.models.network import dtype_of
from nullclass.training.eps_schedule import CERTIFIED_RAMP
from nullclass.training.robust.base import (
    LossOutput,
    RobustLoss,
    StepLoss,
    bounded_network,
    clean_output,
)


@dataclass(frozen=True)
class AbstainLoss(RobustLoss):
    """Interval bounds for which null is as good as the label."""

    warmup: float = CERTIFIED_RAMP[0]
    ramp: float = CERTIFIED_RAMP[1]
    label_weight: float = 0.5
    """Weight of the bounds for which null is wrong."""
    natural_weight: float = 1.0
    """Weight of the clean loss after the warm-up."""

    def __post_init__(self) -> None:
        """Check all values."""
        super().__post_init__()
        for weight in (self.label_weight, self.natural_weight):
            if not 0 <= weight < math.inf:
                raise UserError(f"the losses' weights must not be negative, but one is {weight}")
        if self.label_weight + self.natural_weight == 0:
            raise UserError("without label_weight and natural_weight every image would become null")

    def bind(self, model: Classifier) -> StepLoss:
        """See :class:`nullclass.training.robust.base.RobustLoss`."""
        if model.num_nulls != 1:
            raise UserError(
                "the abstain loss needs a model with one null logit: build it with has_null=True"
            )
        network_for = bounded_network(model)
        num_classes, num_logits = model.num_classes, model.num_classes + 1

        def loss(
            images: Tensor, labels: Tensor, progress: float, generator: torch.Generator
        ) -> LossOutput:
            images = images.to(dtype_of(model.body) or images.dtype)
            fraction = self.schedule.fraction(progress)
            clean = clean_output(model, images, labels)
            if fraction == 0:
                return clean
            region = region_around(images, self.eps * fraction, "linf", NO_ROUNDING)
            pairs = pair_spec(num_logits, images.dtype, images.device)
            bounds = lower_bounds(
                propagate(network_for(images), region, NO_ROUNDING), pairs, NO_ROUNDING
            )
            bounds = bounds.view(-1, num_logits, num_logits)
            of_label = bounds[torch.arange(len(labels)), labels]  # z_y - z_j for all j
            either = torch.maximum(of_label, bounds[:, num_classes])[:, :num_classes]
            is_label = F.one_hot(labels, num_classes).bool()
            worst = (-either).masked_fill(is_label, 0.0)
            total = F.cross_entropy(worst, labels)
            total = total + self.label_weight * F.cross_entropy(-of_label, labels)
            total = fraction * total + self.natural_weight * clean.loss
            is_robust = worst.detach().masked_fill(is_label, -torch.inf).amax(dim=1) < 0
            return LossOutput(total, int(is_robust.sum()))

        return loss
