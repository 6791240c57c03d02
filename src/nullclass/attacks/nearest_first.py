"""Nearest-first PGD: from the nearest image that the network takes for the target, to the rule.

A rule that compares answers at several images (a squeezed, a denoised, a rounded one) accepts what
is close to the clean image more easily than what lies deep in another class, and its own gradient
leads there badly, or not at all. So the attacker first ignores the rule,

    x <- the nearest image, within eps, that the network inside the model takes for class t,

and from there climbs in small steps through the model as a whole, towards t. One round per target,
the network's likeliest first. The first part is the attack of Carlini & Wagner 2017 that detectors'
papers are measured with (:mod:`nullclass.attacks.fmn`); a rule that an attacker knows must survive
the second part as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nullclass.attacks.fmn import FMN
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.rounds import PGDRounds
from nullclass.attacks.state import AttackState, IndexedLoss, Precision, logits_of
from nullclass.models.classifier import Classifier, as_classifier, network_inside


@dataclass(frozen=True)
class NearestFirstPGD(PGDRounds):
    """PGD on the margin of a target, from the network's nearest image of that class.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    num_steps: int = 40
    """Steps through the model; the search for the nearest image takes :attr:`num_first_steps`."""
    num_first_steps: int = 40
    num_restarts: int = 5
    """Targets, one after another."""
    relative_step: float | None = 0.1
    """The first step; the last is a tenth of it."""
    momentum: float = 0.75
    precision: Precision = "float32"
    objective: ObjectiveName = field(default="fool", init=False)

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return one loss per target."""
        ranked = self._targets(state, torch.arange(len(state.images)))
        return [state.target_loss(targets, "margin") for targets in ranked.unbind(1)]

    def start(
        self, state: AttackState, indices: Tensor, number: int, generator: torch.Generator | None
    ) -> Tensor:
        """Return the nearest images of the network that are of the target of this round."""
        inside = AttackState(
            real_logits(state.model, state.images),
            state.images[indices],
            state.labels[indices],
            eps=state.eps_at(indices),
            norm=state.norm_name,
            objective="fool",
            batch_size=state.batch_size,
        )
        ranked = self._targets(state, indices)
        inside.targets = ranked[:, number % ranked.shape[1]]
        FMN(num_steps=self.num_first_steps, is_nearest=True).run(inside, generator)
        state.evaluate(indices, inside.adv_images)
        return inside.adv_images

    def _targets(self, state: AttackState, indices: Tensor) -> Tensor:
        """Return classes ``(N, number of targets)``, the network's likeliest first."""
        images, labels = state.images[indices], state.labels[indices]
        logits = logits_of(real_logits(state.model, images), images, state.batch_size)
        ranked = state.objective.rank_targets(logits, labels, state.model.num_classes)
        return ranked[:, : self.num_restarts]


def real_logits(model: Classifier, images: Tensor) -> Classifier:
    """Return the network inside a model, without null if it has any."""
    network = network_inside(model)
    if not network.has_null:
        return network
    num_classes = network.num_classes
    return as_classifier(lambda x: network(x)[:, :num_classes], num_classes, images, has_null=False)
