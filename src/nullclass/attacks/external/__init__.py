"""Attacks of other libraries on models with null. An open set: a file per library.

A library is imported when one of its attacks is created, never before.
"""

from __future__ import annotations

from collections.abc import Callable

from nullclass.attacks.external.art import ARTAttack, art_pgd
from nullclass.attacks.external.autoattack import AutoAttackAttack, unmodified_autoattack
from nullclass.attacks.external.base import ExternalAttack, LibraryInput
from nullclass.attacks.external.foolbox import FoolboxAttack, foolbox_fmn, foolbox_hop_skip_jump
from nullclass.attacks.external.torchattacks import TorchattacksAttack, torchattacks_pgd
from nullclass.attacks.external.view import KClassView

__all__ = [
    "EXTERNAL",
    "ARTAttack",
    "AutoAttackAttack",
    "ExternalAttack",
    "FoolboxAttack",
    "KClassView",
    "LibraryInput",
    "TorchattacksAttack",
]

EXTERNAL: dict[str, Callable[[], ExternalAttack]] = {
    "autoattack": AutoAttackAttack,
    "autoattack-unmodified": unmodified_autoattack,
    "foolbox-fmn": foolbox_fmn,
    "foolbox-hopskipjump": foolbox_hop_skip_jump,
    "art-pgd": art_pgd,
    "torchattacks-pgd": torchattacks_pgd,
}
"""Names to functions that return a ready-made attack."""
