"""Attacks of other libraries, so that one can aim those one trusts at a model with null.

A library is loaded when one of its attacks is made, never before. A new library: one file here; a
ready-made attack of one: a line in :data:`ADAPTERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from nullclass.attacks.external import of_art, of_foolbox, of_torchattacks
from nullclass.attacks.external.base import Adapter, Task
from nullclass.attacks.external.of_art import ARTAttack
from nullclass.attacks.external.of_autoattack import AutoAttackAttack, unmodified
from nullclass.attacks.external.of_foolbox import FoolboxAttack
from nullclass.attacks.external.of_torchattacks import TorchattacksAttack
from nullclass.attacks.external.view import KClassView

__all__ = [
    "ADAPTERS",
    "ARTAttack",
    "Adapter",
    "AutoAttackAttack",
    "FoolboxAttack",
    "KClassView",
    "Task",
    "TorchattacksAttack",
]

ADAPTERS: dict[str, Callable[[], Adapter]] = {
    "autoattack": AutoAttackAttack,
    "autoattack-unmodified": unmodified,
    "foolbox-fmn": of_foolbox.fmn,
    "foolbox-hopskipjump": of_foolbox.hop_skip_jump,
    "art-pgd": of_art.pgd,
    "torchattacks-pgd": of_torchattacks.pgd,
}
"""Name to a maker of a ready-made attack, without arguments."""
