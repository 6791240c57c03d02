"""Attacks on models that may refuse. A new attack: one file, one line in :data:`ATTACKS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nullclass.attacks.apgd import APGD, MultiTargetedAPGD
from nullclass.attacks.base import Attack
from nullclass.attacks.dataset import DatasetAttack
from nullclass.attacks.ensemble import AttackEnsemble, null_aware_pgd
from nullclass.attacks.fgsm import FGSM
from nullclass.attacks.fmn import FMN
from nullclass.attacks.mi_fgsm import MIFGSM
from nullclass.attacks.multi_targeted_pgd import MultiTargetedPGD
from nullclass.attacks.noise import Noise
from nullclass.attacks.pgd import PGD
from nullclass.attacks.rays import RayS
from nullclass.attacks.selective import SelectivePGD
from nullclass.attacks.square import Square
from nullclass.attacks.transfer import Transfer
from nullclass.attacks.worst_case import worst_case
from nullclass.core.errors import UserError
from nullclass.data.arrays import LabelledImages
from nullclass.models.classifier import Classifier

__all__ = [
    "APGD",
    "ATTACKS",
    "FGSM",
    "FMN",
    "MIFGSM",
    "PGD",
    "Attack",
    "AttackEnsemble",
    "DatasetAttack",
    "MultiTargetedAPGD",
    "MultiTargetedPGD",
    "Noise",
    "RayS",
    "SelectivePGD",
    "Square",
    "Transfer",
    "describe",
    "find_attack",
    "null_aware_pgd",
    "worst_case",
]

ATTACKS: dict[str, Callable[..., Attack]] = {
    "fgsm": FGSM,
    "mi-fgsm": MIFGSM,
    "pgd": PGD,
    "pgd-targeted": MultiTargetedPGD,
    "apgd": APGD,
    "apgd-targeted": MultiTargetedAPGD,
    "minimum-norm": FMN,
    "selective-pgd": SelectivePGD,
    "square": Square,
    "noise": Noise,
    "swap": DatasetAttack,
    "rays": RayS,
    "null-aware-pgd": null_aware_pgd,
    "worst-case": worst_case,
    "worst-case-force-null": partial(worst_case, "force-null"),
}
"""Name to a maker, from settings by name; all have defaults."""


def describe(attack: Attack) -> dict[str, Any]:
    """Kind and settings of an attack, members included, as JSON values."""
    told: dict[str, Any] = {"kind": type(attack).__name__, "objective": attack.objective}
    for name, value in vars(attack).items():
        told[name] = _told(value)
    return told


def _told(setting: Any) -> Any:
    if isinstance(setting, tuple):
        return [_told(part) for part in setting]
    if isinstance(setting, LabelledImages):
        return {"num_images": len(setting)}
    if isinstance(setting, Classifier):
        return setting.architecture or type(setting.body).__name__
    return describe(setting) if hasattr(setting, "objective") else setting


def find_attack(name: str) -> Attack:
    """The attack of that name, ours or another library's, with its default settings.

    Raises:
        UserError: If it is unknown, or its library is not installed or broken.
    """
    from nullclass.attacks.external import (
        ADAPTERS,  # built on this package: imported once it is there
    )

    makers = {**ATTACKS, **ADAPTERS}
    if name not in makers:
        raise UserError(f"there is no attack {name!r}: choose one of {', '.join(makers)}")
    return makers[name]()
