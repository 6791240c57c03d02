"""Nearest-first PGD: from the nearest image of another class, as the network sees it, to the rule.

A rule that compares answers at several images (a squeezed, a denoised, a rounded one) accepts an
image near the clean one more often than one deep in another class, but its gradient rarely leads
there, and some rules have none. So the attacker first ignores the rule,

    x <- the nearest image, within eps, to which the network inside the model gives class t,

and from there climbs in small steps through the model as a whole, towards t. One round per target,
the network's likeliest first; from the fourth on only for the images nearest to a success. The
first part is a minimum-norm attack (:mod:`nullclass.attacks.fmn`), as that of Carlini & Wagner 2017
in detectors' papers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nullclass.attacks.fmn import FMN
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.rounds import PGDRounds
from nullclass.attacks.state import AttackState, IndexedLoss, Precision, logits_of
from nullclass.models.classifier import Classifier, network_inside


@dataclass(frozen=True)
class NearestFirstPGD(PGDRounds):
    """PGD on the margin of a target, from the network's nearest image of that class.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    num_first_steps: int = 100
    """Steps of the search for the nearest image, on the network alone."""
    num_steps: int = 80
    """Steps through the model."""
    num_restarts: int = 5
    """Targets, one after another; of K classes at most K - 1."""
    relative_step: float | None = 0.1
    """The first step; the last is a tenth of it."""
    momentum: float = 0.75
    precision: Precision = "float32"
    objective: ObjectiveName = field(default="fool", init=False)

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        num_rounds = min(self.num_restarts, state.model.num_classes - 1)
        PGDRounds.run(replace(self, num_restarts=num_rounds), state, generator)

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return one loss per target."""
        ranked = _targets(state, RealLogits(state.model), state.images, state.labels)
        return [state.target_loss(targets, "margin") for targets in ranked.unbind(1)]

    def start(
        self, state: AttackState, indices: Tensor, number: int, generator: torch.Generator | None
    ) -> Tensor:
        """Return the nearest images to which the network gives the target of this round."""
        network = RealLogits(state.model)
        images, labels = state.images[indices], state.labels[indices]
        inside = AttackState(
            network,
            images,
            labels,
            eps=state.eps_at(indices),
            norm=state.norm_name,
            objective="fool",
            batch_size=state.batch_size,
        )
        inside.targets = _targets(state, network, images, labels)[:, number]
        FMN(num_steps=self.num_first_steps, is_nearest=True).run(inside, generator)
        state.evaluate(indices, inside.adv_images)
        return inside.adv_images


class RealLogits(Classifier):
    """The network inside a model, without null if it has any: what decides on the class.

    Args:
        model: The model; shared, not copied.
    """

    def __init__(self, model: Classifier) -> None:
        network = network_inside(model)
        super().__init__(
            network, network.num_classes, has_null=False, image_shape=network.image_shape
        )

    def all_logits(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of images ``(N, C, H, W)`` in [0,1]."""
        logits: Tensor = self.body(images)
        return logits[:, : self.num_classes]


def _targets(state: AttackState, network: RealLogits, images: Tensor, labels: Tensor) -> Tensor:
    """Return classes ``(N, K - 1)``, the network's likeliest first."""
    logits = logits_of(network, images, state.batch_size)
    return state.objective.rank_targets(logits, labels, network.num_classes)
