"""Certified training: the loss of the worst logits that interval bounds allow.

    L = (1 - k) CE(v(x, eps), y) + k CE(z(x), y) + regulariser
    v_j = upper bound of z_j - z_y on the ball,  v_y = 0            (Gowal et al. 2018, eq. 10)

ε rises from 0 while k falls from 1 to ``natural_weight``. With a share of the loss on attacked
images it is MTL-IBP (De Palma et al. 2024, eq. 9):

    L = (1 - a) CE(z(x_adv), y) + a CE(v(x, eps), y),               a = bound_weight

x_adv from a few steps of PGD within ε. The regularisers are those of Shi et al. 2021 (equations
9 to 11), both falling to zero as ε rises: that radii do not grow layer by layer, and that ReLU's
always active and always inactive units stay balanced.

For a network with null, null is a wrong answer like any other in ``v``: it learns to answer.
(``abstain`` is the loss that lets it refuse.)
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nullclass.certify import (
    NO_ROUNDING,
    Box,
    Monotone,
    Network,
    Region,
    Step,
    label_spec,
    lower_bounds,
    propagate,
    read_network,
    region_around,
)
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.models.classifier import Classifier
from nullclass.training.robust.base import EpsSchedule, LossOutput, StepLoss
from nullclass.training.robust.perturbed import perturbed

_TOLERANCE = 0.5
"""tau of Shi et al. 2021."""


@dataclass(frozen=True)
class IntervalLoss:
    """Interval bounds, or, with a share of attacked images, MTL-IBP."""

    eps: float
    """What is trained for, in pixel units."""
    warmup: float = 0.04
    """Share of all steps on clean images alone."""
    ramp: float = 0.4
    """Share of all steps after which ε is reached."""
    natural_weight: float = 0.0
    """Of the clean images' loss at the end (kappa), in [0, 1)."""
    bound_weight: float = 1.0
    """Of the bounds against the attacked images (alpha of MTL-IBP), in (0, 1]; 1 attacks none."""
    num_steps: int = 1
    """Of the attack, if there is one."""
    regularisation: float = 0.0
    """Of the regularisers while ε rises (lambda_0 in Shi et al. 2021, 0.5 there)."""
    has_interval_start: bool = False
    """First weights with which radii keep their size from layer to layer (Shi et al. 2021, 4.1)."""

    def __post_init__(self) -> None:
        """Refuse weights that make no sense."""
        self.rise  # noqa: B018 - refuses an eps that never rises
        if not 0 <= self.natural_weight < 1:
            raise UserError(f"natural_weight must be in [0, 1), not {self.natural_weight}")
        if not 0 < self.bound_weight <= 1:
            raise UserError(f"bound_weight must be in (0, 1], not {self.bound_weight}")
        if self.num_steps < 1:
            raise UserError(f"the attack needs a step at least, not {self.num_steps}")
        if not 0 <= self.regularisation < math.inf:
            raise UserError(f"regularisation must not be negative, but is {self.regularisation}")

    @property
    def rise(self) -> EpsSchedule:
        """How ε rises."""
        return EpsSchedule(self.eps, self.warmup, self.ramp)

    def settings(self) -> dict[str, Any]:
        """See :class:`nullclass.training.robust.base.RobustLoss`."""
        return asdict(self)

    def initialise(self, model: Classifier, generator: torch.Generator) -> None:
        """See :class:`nullclass.training.robust.base.RobustLoss`."""
        if self.has_interval_start:
            interval_start(model, generator)

    def bind(self, model: Classifier) -> StepLoss:
        """See :class:`nullclass.training.robust.base.RobustLoss`."""
        network = read_network(model)

        def loss(
            images: Tensor, labels: Tensor, progress: float, generator: torch.Generator
        ) -> LossOutput:
            share = self.rise.share(progress)
            natural = 1 - share * (1 - self.natural_weight)
            if share == 0:
                logits = model.all_logits(images)
                right = logits.detach().argmax(dim=1) == labels
                return LossOutput(cross_entropy(logits, labels), int(right.sum()))
            eps = self.eps * share
            watcher = _Watcher() if self.regularisation and share < 1 else None
            worst = worst_logits(network, images, labels, eps, watcher)
            total = F.cross_entropy(worst, labels)
            if self.bound_weight < 1:
                adv_images = perturbed(model, images, labels, eps, self.num_steps, generator)
                of_attacked = cross_entropy(model.all_logits(adv_images), labels)
                total = self.bound_weight * total + (1 - self.bound_weight) * of_attacked
            if natural > 0:
                of_clean = cross_entropy(model.all_logits(images), labels)
                total = (1 - natural) * total + natural * of_clean
            if watcher is not None:
                total = total + self.regularisation * (1 - share) * watcher.penalty()
            others = worst.detach().scatter(1, labels[:, None], -torch.inf)
            return LossOutput(total, int((others.amax(dim=1) < 0).sum()))

        return loss


def worst_logits(
    network: Network,
    images: Tensor,
    labels: Tensor,
    eps: float,
    watcher: _Watcher | None = None,
) -> Tensor:
    """``(N, L)``: upper bounds of ``z_j - z_y`` on the L∞ ball, 0 at y; the weights get gradients.

    Without rounding margins: what is trained need not be sound to the last bit.
    """
    num_logits = network.num_logits
    propagation = propagate(
        network, region_around(images, eps, "linf", NO_ROUNDING), NO_ROUNDING, watcher
    )
    spec = label_spec(labels, num_logits, images.dtype)
    margins = lower_bounds(propagation, spec, NO_ROUNDING)
    places = torch.arange(num_logits, device=labels.device).expand(len(labels), -1)
    others = places[places != labels[:, None]].view(len(labels), num_logits - 1)
    return torch.zeros_like(places, dtype=images.dtype).scatter(1, others, -margins)


class _Watcher:
    """Collects, on the way through the network, what Shi et al.'s regularisers look at."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.terms: list[Tensor] = []

    def __call__(self, step: Step, inputs: list[Region], box: Box) -> None:
        """See :data:`nullclass.certify.Hook`."""
        if self.first is None:  # the standardised image, eq. 9's Delta_0
            self.first = box.radius.mean().detach()
        (before, *_) = inputs
        is_relu = isinstance(step.layer, Monotone) and step.layer.apply is torch.relu
        if is_relu and isinstance(before, Box):
            self._look(before)

    def _look(self, box: Box) -> None:
        assert self.first is not None
        growth = self.first / box.radius.mean().clamp(min=1e-12)
        self.terms.append(F.relu(_TOLERANCE - growth) / _TOLERANCE)
        center = box.center
        is_active, is_inactive = box.lower > 0, box.upper < 0
        if int(is_active.sum()) < 2 or int(is_inactive.sum()) < 2:
            return
        active, inactive = center[is_active], center[is_inactive]
        for ratio in (
            active.mean() / (-inactive.mean()).clamp(min=1e-12),
            active.var() / inactive.var().clamp(min=1e-12),
        ):
            balance = torch.minimum(ratio, 1 / ratio.clamp(min=1e-12))
            self.terms.append(F.relu(_TOLERANCE - balance) / _TOLERANCE)

    def penalty(self) -> Tensor:
        """The mean of all terms; 0 for a network without ReLU."""
        return torch.stack(self.terms).mean() if self.terms else torch.zeros(())


@torch.no_grad()
def interval_start(model: Classifier, generator: torch.Generator) -> None:
    """Draw weights from N(0, 2 pi / n^2), n the fan-in, and zero the biases (Shi et al. 2021, 4.1).

    So that the expected radius is the same in every layer behind a ReLU. Layers that look at one
    number each, such as the soft threshold, are left as they are.
    """
    for layer in model.body.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight[0].numel() > 1:
            fan_in = layer.weight[0].numel()
            drawn = torch.empty(layer.weight.shape)
            drawn.normal_(0, math.sqrt(2 * math.pi) / fan_in, generator=generator)
            layer.weight.copy_(drawn)
            if layer.bias is not None:
                layer.bias.zero_()
