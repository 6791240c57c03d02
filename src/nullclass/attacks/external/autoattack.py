"""AutoAttack (Croce & Hein 2020) in the package pyautoattack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nullclass.attacks.external.base import ExternalAttack, LibraryInput
from nullclass.attacks.external.library import Library
from nullclass.core.checks import check_choice
from nullclass.core.errors import UserError

_NUM_LOGITS = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}
"""Its members, and the fewest logits for which their losses are defined."""


@dataclass(frozen=True, kw_only=True)
class AutoAttackAttack(ExternalAttack):
    """AutoAttack on a K-class view, or unmodified on all logits (``view="plain"``).

    Its targeted members use at most nine targets. With ``plain`` it stops attacking an image once
    the prediction is null.
    """

    version: Literal["standard", "plus", "rand"] = "standard"
    """Which of its sequences."""
    attacks: tuple[str, ...] = ()
    """Only these of its members, in this order, instead of a version's."""
    library: ClassVar[Library] = Library(
        "pyautoattack", "pyautoattack", "pip install 'nullclass[autoattack]'"
    )

    def __post_init__(self) -> None:
        """Check the settings, and that the library imports."""
        for name in self.attacks:
            check_choice("AutoAttack's member", name, _NUM_LOGITS)
        if self.view == "targeted":
            raise UserError("AutoAttack picks its targets itself: its view is grouped or plain")
        super().__post_init__()

    def run_library(self, given: LibraryInput) -> Tensor:
        """See :class:`nullclass.attacks.external.ExternalAttack`."""
        arguments = {
            "norm": given.norm.capitalize(),
            "eps": given.eps,
            "device": given.images.device,
            "seed": int(torch.randint(2**31, ())),
            "version": "custom" if self.attacks else self.version,
            "attacks": list(self.attacks) or None,
        }
        auto_attack = self.library.create(
            "AutoAttack", given.network, given=arguments, settings={}, only_known=False
        )
        for name in auto_attack.attacks_to_run:
            if given.num_logits < _NUM_LOGITS[name]:
                raise UserError(f"AutoAttack's {name} needs {_NUM_LOGITS[name]} classes or more")
        for member in (auto_attack.apgd_targeted, auto_attack.fab):
            member.n_target_classes = min(member.n_target_classes, given.num_logits - 1)
        adv_images: Tensor
        adv_images, _ = auto_attack.run_standard_evaluation(
            given.images, given.labels, batch_size=len(given.images)
        )
        return adv_images


def unmodified_autoattack() -> AutoAttackAttack:
    """Return AutoAttack on all logits, as if null were a class."""
    return AutoAttackAttack(view="plain")
