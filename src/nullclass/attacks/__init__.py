"""Attacks on models that may refuse. A new attack: one file, one line in :data:`ATTACKS`."""

from __future__ import annotations

from collections.abc import Callable

from nullclass.attacks.base import Attack
from nullclass.attacks.cascade import Cascade, null_aware_pgd
from nullclass.attacks.fgsm import FGSM
from nullclass.attacks.pgd import PGD, TargetedPGD
from nullclass.errors import UserError

__all__ = [
    "ATTACKS",
    "FGSM",
    "PGD",
    "Attack",
    "Cascade",
    "TargetedPGD",
    "find_attack",
    "null_aware_pgd",
]

ATTACKS: dict[str, Callable[..., Attack]] = {
    "fgsm": FGSM,
    "pgd": PGD,
    "pgd-targeted": TargetedPGD,
    "null-aware-pgd": null_aware_pgd,
}
"""Name to a maker, from settings by name; all have defaults."""


def find_attack(name: str) -> Attack:
    """The attack of that name with its default settings.

    Raises:
        UserError: If it is unknown.
    """
    if name not in ATTACKS:
        raise UserError(f"there is no attack {name!r}: choose one of {', '.join(ATTACKS)}")
    return ATTACKS[name]()
