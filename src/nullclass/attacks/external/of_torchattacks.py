"""Attacks of torchattacks (Kim 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from nullclass.attacks.external.base import Adapter, Task
from nullclass.attacks.external.loading import Library, accepted, in_units_of, name_for
from nullclass.core.errors import UserError


@dataclass(frozen=True)
class TorchattacksAttack(Adapter):
    """Any attack of torchattacks on a single model.

    What a minimum-norm attack finds beyond the budget is pulled into the ball.
    """

    names: Mapping[str, str]
    """The attack for each norm it has: its name, or a dotted path to a class elsewhere."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its constructor is told."""
    relative: Mapping[str, float] = field(default_factory=dict)
    """Settings in units of eps, as ``{"alpha": 0.0625}``."""
    # No extra: its metadata pins an old requests and demands torchvision, which it never imports.
    library: ClassVar[Library] = Library(
        "torchattacks",
        "torchattacks",
        "TorchattacksAttack",
        "pip install --no-deps torchattacks && pip install scipy",
    )

    def run(self, task: Task) -> Tensor:
        """See :meth:`nullclass.attacks.external.base.Adapter.run`."""
        name = name_for(self.names, task.norm)
        known = accepted(
            self.library.find(name),
            {
                "eps": task.eps,
                "norm": task.norm.capitalize(),
                "n_classes": task.num_logits,
                "seed": int(torch.randint(2**31, ())),
            },
        )
        attack = self.library.make(
            name,
            task.network,
            given=known,
            settings={**self.settings, **in_units_of(task.eps, self.relative)},
        )
        attack.set_device(task.images.device)
        if task.is_targeted:
            try:
                attack.set_mode_targeted_by_label(quiet=True)
            except ValueError as error:
                raise UserError(
                    f"torchattacks' {name} cannot be targeted: its view is grouped or plain"
                ) from error
        adv_images: Tensor = attack(task.images, task.labels)
        return adv_images


def pgd() -> TorchattacksAttack:
    """PGD-40 aimed at every wrong real class in turn, from a random start; L-infinity and L2."""
    num_steps = 40
    return TorchattacksAttack(
        {"linf": "PGD", "l2": "PGDL2"},
        {"steps": num_steps},
        {"alpha": 2.5 / num_steps},
        view="targeted",
    )
