"""Certified training: the loss of the worst logits that interval bounds allow.

    L = (1 - k) CE(v(x, eps), y) + k CE(z(x), y)
    v_j = upper bound of z_j - z_y on the ball,  v_y = 0            (Gowal et al. 2018, eq. 10)

ε increases from 0 while k decreases from 1 to ``natural_weight``. With ``bound_weight`` below 1 it
is MTL-IBP (De Palma et al. 2024, eq. 9):

    L = (1 - a) CE(z(x_adv), y) + a CE(v(x, eps), y),               a = bound_weight

with x_adv from a few steps of PGD within ε. With ``box_share`` below 1 it is SABR (Müller et al.
2023, section 3): v bounds the logits on a small box of radius ``box_share`` ε only, around x_adv
from PGD within the rest of ε. Such bounds hold for a part of the ball; proofs come from a verifier
afterwards.

For a network with null, null is a wrong class like any other in ``v``: the network learns to
answer. (With ``abstain`` it may refuse.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.certify import (
    NO_ROUNDING,
    Network,
    label_spec,
    lower_bounds,
    propagate,
    region_around,
)
from nullclass.core.checks import check_count
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.models.classifier import Classifier
from nullclass.models.network import dtype_of
from nullclass.training.eps_schedule import CERTIFIED_RAMP
from nullclass.training.robust.adversarial import perturbed
from nullclass.training.robust.base import (
    LossOutput,
    RobustLoss,
    StepLoss,
    bounded_network,
    clean_output,
)


@dataclass(frozen=True)
class IntervalLoss(RobustLoss):
    """Interval bounds alone, or mixed with adversarial images (MTL-IBP)."""

    warmup: float = CERTIFIED_RAMP[0]
    ramp: float = CERTIFIED_RAMP[1]
    natural_weight: float = 0.0
    """Final weight of the clean loss (kappa), in [0, 1)."""
    bound_weight: float = 1.0
    """Weight of the bounds against the adversarial images (alpha of MTL-IBP), in (0, 1]; 1 uses no
    adversarial images."""
    box_share: float = 1.0
    """Radius of the box that is bounded, as a share of ε (lambda of SABR), in (0, 1]."""
    num_steps: int = 1
    """Gradient steps of the attack, if there is one."""

    def __post_init__(self) -> None:
        """Check all values."""
        super().__post_init__()
        if not 0 <= self.natural_weight < 1:
            raise UserError(f"natural_weight must be in [0, 1), not {self.natural_weight}")
        if not 0 < self.bound_weight <= 1:
            raise UserError(f"bound_weight must be in (0, 1], not {self.bound_weight}")
        if not 0 < self.box_share <= 1:
            raise UserError(f"box_share must be in (0, 1], not {self.box_share}")
        check_count("num_steps", self.num_steps)

    def bind(self, model: Classifier) -> StepLoss:
        """See :class:`nullclass.training.robust.base.RobustLoss`."""
        network_for = bounded_network(model)

        def loss(
            images: Tensor, labels: Tensor, progress: float, generator: torch.Generator
        ) -> LossOutput:
            images = images.to(dtype_of(model.body) or images.dtype)
            fraction = self.schedule.fraction(progress)
            if fraction == 0:
                return clean_output(model, images, labels)
            eps = self.eps * fraction
            centers, box_eps = images, eps * self.box_share
            if self.box_share < 1:
                centers = perturbed(model, images, labels, eps - box_eps, self.num_steps, generator)
            worst = worst_logits(network_for(images), centers, labels, box_eps)
            total = F.cross_entropy(worst, labels)
            if self.bound_weight < 1:
                adv_images = perturbed(model, images, labels, eps, self.num_steps, generator)
                adv_loss = cross_entropy(model.all_logits(adv_images), labels)
                total = self.bound_weight * total + (1 - self.bound_weight) * adv_loss
            clean_weight = 1 - fraction * (1 - self.natural_weight)
            if clean_weight > 0:
                clean_loss = cross_entropy(model.all_logits(images), labels)
                total = (1 - clean_weight) * total + clean_weight * clean_loss
            others = worst.detach().scatter(1, labels[:, None], -torch.inf)
            return LossOutput(total, int((others.amax(dim=1) < 0).sum()))

        return loss


def worst_logits(network: Network, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Return ``(N, L)``: differentiable upper bounds of ``z_j - z_y`` on the L∞ ball, 0 at y.

    They have no rounding margins: training needs no soundness to the last bit.
    """
    num_logits = network.num_logits
    region = region_around(images, eps, "linf", NO_ROUNDING)
    propagation = propagate(network, region, NO_ROUNDING)
    spec = label_spec(labels, num_logits, images.dtype)
    margins = lower_bounds(propagation, spec, NO_ROUNDING)
    index = torch.arange(num_logits, device=labels.device).expand(len(labels), -1)
    others = index[index != labels[:, None]].view(len(labels), num_logits - 1)
    return torch.zeros_like(index, dtype=images.dtype).scatter(1, others, -margins)
