"""AutoAttack (Croce & Hein 2020) as the package pyautoattack has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from nullclass.attacks.external.base import Adapter, Task
from nullclass.attacks.external.loading import Library
from nullclass.core.errors import UserError

Version = Literal["standard", "plus", "rand"]

_NUM_LOGITS = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}
"""Its members, and the fewest logits with which their losses are defined."""


@dataclass(frozen=True, kw_only=True)
class AutoAttackAttack(Adapter):
    """AutoAttack on a K-class view, or unmodified on all logits (``view="plain"``).

    Its targeted members aim at the nine nearest classes, at all if there are fewer. With
    ``plain`` it leaves an image alone once the model calls it null.
    """

    version: Version = "standard"
    """Which of its sequences."""
    attacks: tuple[str, ...] = ()
    """Only these of its members, in this order, in place of a version's."""
    library: ClassVar[Library] = Library(
        "pyautoattack",
        "pyautoattack",
        "AutoAttackAttack",
        "pip install 'nullclass[autoattack]'",
    )

    def __post_init__(self) -> None:
        """Refuse what AutoAttack does not have."""
        if self.version not in get_args(Version):
            raise UserError(
                f"AutoAttack has no version {self.version!r}: choose standard, plus or rand"
            )
        for name in set(self.attacks) - set(_NUM_LOGITS):
            raise UserError(f"AutoAttack has no {name!r}: choose from {', '.join(_NUM_LOGITS)}")
        if self.view == "targeted":
            raise UserError("AutoAttack picks its targets itself: its view is grouped or plain")
        super().__post_init__()

    def run(self, task: Task) -> Tensor:
        """See :meth:`nullclass.attacks.external.base.Adapter.run`."""
        auto_attack = self.library.make(
            "AutoAttack",
            task.network,
            given={
                "norm": task.norm.capitalize(),
                "eps": task.eps,
                "device": task.images.device,
                "seed": int(torch.randint(2**31, ())),
                "version": "custom" if self.attacks else self.version,
                "attacks": list(self.attacks) or None,
            },
            settings={},
        )
        for name in auto_attack.attacks_to_run:
            if task.num_logits < _NUM_LOGITS[name]:
                raise UserError(f"AutoAttack's {name} needs {_NUM_LOGITS[name]} classes or more")
        for member in (auto_attack.apgd_targeted, auto_attack.fab):
            member.n_target_classes = min(member.n_target_classes, task.num_logits - 1)
        images, labels = task.images, task.labels
        adv_images: Tensor
        adv_images, _ = auto_attack.run_standard_evaluation(images, labels, batch_size=len(images))
        return adv_images


def unmodified() -> AutoAttackAttack:
    """AutoAttack as if null were one class more."""
    return AutoAttackAttack(view="plain")
