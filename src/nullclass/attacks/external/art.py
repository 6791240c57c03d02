"""Evasion attacks of the Adversarial Robustness Toolbox (Nicolae et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.attacks.dataset import ORDERS
from nullclass.attacks.external.base import LibraryInput, NamedAttack
from nullclass.attacks.external.library import Library
from nullclass.core.errors import UserError


@dataclass(frozen=True)
class ARTAttack(NamedAttack):
    """Any attack of ``art.attacks.evasion`` on images."""

    library: ClassVar[Library] = Library(
        "art", "art.attacks.evasion", "pip install 'nullclass[art]'"
    )

    def run_library(self, given: LibraryInput) -> Tensor:
        """See :class:`nullclass.attacks.external.ExternalAttack`."""
        name = self.names[given.norm]
        if given.is_targeted and "targeted" not in signature(self.library.find(name)).parameters:
            raise UserError(f"ART's {name} takes no targets: its view is grouped or plain")
        estimator = self.library.load("art.estimators.classification").PyTorchClassifier(
            given.network,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(given.images.shape[1:]),
            nb_classes=given.num_logits,
            clip_values=(0.0, 1.0),
            device_type="gpu" if given.images.is_cuda else "cpu",
        )
        attack = self.create(
            given,
            estimator,
            eps=given.eps,
            norm=ORDERS[given.norm],
            targeted=given.is_targeted,
            batch_size=len(given.images),
            verbose=False,
        )
        labels = F.one_hot(given.labels, given.num_logits)
        return torch.from_numpy(attack.generate(given.images.cpu().numpy(), labels.cpu().numpy()))


def art_pgd() -> ARTAttack:
    """Return PGD-40 towards every wrong real class in turn, from the clean image."""
    return ARTAttack(
        dict.fromkeys(ORDERS, "ProjectedGradientDescentPyTorch"),
        {"max_iter": 40},
        {"eps_step": 2.5 / 40},
        view="targeted",
    )
