"""Evasion attacks of the Adversarial Robustness Toolbox (Nicolae et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.attacks.external.base import Adapter, Task
from nullclass.attacks.external.loading import Library, accepted, in_units_of, name_for
from nullclass.core.errors import UserError

_ORDERS = {"linf": float("inf"), "l2": 2, "l1": 1}


@dataclass(frozen=True)
class ARTAttack(Adapter):
    """Any attack of ``art.attacks.evasion`` on images.

    What a minimum-norm attack finds beyond the budget is pulled into the ball.
    """

    names: Mapping[str, str]
    """The attack for each norm it has: its name, or a dotted path to a class elsewhere."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its constructor is told."""
    relative: Mapping[str, float] = field(default_factory=dict)
    """Settings in units of eps, as ``{"eps_step": 0.0625}``."""
    library: ClassVar[Library] = Library(
        "art", "art.attacks.evasion", "ARTAttack", "pip install 'nullclass[art]'"
    )

    def run(self, task: Task) -> Tensor:
        """See :meth:`nullclass.attacks.external.base.Adapter.run`."""
        name = name_for(self.names, task.norm)
        known = accepted(
            self.library.find(name),
            {
                "eps": task.eps,
                "norm": _ORDERS[task.norm],
                "targeted": task.is_targeted,
                "batch_size": len(task.images),
                "verbose": False,
            },
        )
        if task.is_targeted and "targeted" not in known:
            raise UserError(f"ART's {name} cannot be targeted: its view is grouped or plain")
        estimator = self.library.load("art.estimators.classification").PyTorchClassifier(
            task.network,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(task.images.shape[1:]),
            nb_classes=task.num_logits,
            clip_values=(0.0, 1.0),
            device_type="gpu" if task.images.is_cuda else "cpu",
        )
        attack = self.library.make(
            name,
            estimator,
            given=known,
            settings={**self.settings, **in_units_of(task.eps, self.relative)},
        )
        labels = F.one_hot(task.labels, task.num_logits)
        return torch.from_numpy(attack.generate(task.images.cpu().numpy(), labels.cpu().numpy()))


def pgd() -> ARTAttack:
    """PGD-40 aimed at every wrong real class in turn, from the clean image."""
    num_steps, name = 40, "ProjectedGradientDescentPyTorch"
    return ARTAttack(
        dict.fromkeys(_ORDERS, name),
        {"max_iter": num_steps},
        {"eps_step": 2.5 / num_steps},
        view="targeted",
    )
