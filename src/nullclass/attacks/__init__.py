"""Attacks on models that may refuse. A new attack: one file, one line in :data:`ATTACKS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    "describe",
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


def describe(attack: Attack) -> dict[str, Any]:
    """Kind and settings of an attack, members included, as JSON values."""
    told: dict[str, Any] = {"kind": type(attack).__name__, "objective": attack.objective}
    for name, value in vars(attack).items():
        is_members = isinstance(value, tuple) and name == "members"
        told[name] = [describe(member) for member in value] if is_members else value
    return told


def find_attack(name: str) -> Attack:
    """The attack of that name with its default settings.

    Raises:
        UserError: If it is unknown.
    """
    if name not in ATTACKS:
        raise UserError(f"there is no attack {name!r}: choose one of {', '.join(ATTACKS)}")
    return ATTACKS[name]()
