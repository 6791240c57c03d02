"""Attacks on models that may reject. An open set: a new attack is a file and a line in ATTACKS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nullclass.attacks.apgd import APGD, MultiTargetedAPGD
from nullclass.attacks.base import Attack, check_attack, describe
from nullclass.attacks.dataset import DatasetAttack
from nullclass.attacks.diversified import DiversifiedPGD
from nullclass.attacks.ensemble import AttackEnsemble
from nullclass.attacks.external import EXTERNAL
from nullclass.attacks.fgsm import FGSM
from nullclass.attacks.fmn import FMN
from nullclass.attacks.mi_fgsm import MIFGSM
from nullclass.attacks.nearest_first import NearestFirstPGD
from nullclass.attacks.noise import Noise
from nullclass.attacks.pgd import PGD, MultiTargetedPGD
from nullclass.attacks.rays import RayS
from nullclass.attacks.refined import RefinedPGD
from nullclass.attacks.selective import SelectivePGD
from nullclass.attacks.square import Square
from nullclass.attacks.transfer import Transfer
from nullclass.attacks.whole_ball import WholeBallPGD
from nullclass.attacks.worst_case import null_aware_pgd, worst_case, worst_case_1
from nullclass.core.checks import check_choice

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
    "DiversifiedPGD",
    "MultiTargetedAPGD",
    "MultiTargetedPGD",
    "NearestFirstPGD",
    "Noise",
    "RayS",
    "RefinedPGD",
    "SelectivePGD",
    "Square",
    "Transfer",
    "WholeBallPGD",
    "check_attack",
    "describe",
    "find_attack",
    "null_aware_pgd",
    "worst_case",
    "worst_case_1",
]

ATTACKS: dict[str, Callable[..., Attack]] = {
    "fgsm": FGSM,
    "mi-fgsm": MIFGSM,
    "pgd": PGD,
    "multi-targeted-pgd": MultiTargetedPGD,
    "diversified-pgd": DiversifiedPGD,
    "refined-pgd": RefinedPGD,
    "apgd": APGD,
    "multi-targeted-apgd": MultiTargetedAPGD,
    "fmn": FMN,
    "selective-pgd": SelectivePGD,
    "nearest-first-pgd": NearestFirstPGD,
    "whole-ball-pgd": WholeBallPGD,
    "square": Square,
    "noise": Noise,
    "dataset": DatasetAttack,
    "rays": RayS,
    "null-aware-pgd": null_aware_pgd,
    "worst-case": worst_case,
    "worst-case-force-null": partial(worst_case, "force-null"),
    "worst-case-1": worst_case_1,
}
"""Names to callables that take settings by name and return an attack; all have defaults."""


def find_attack(name: str) -> Attack:
    """Return the attack of that name with its default settings, ours or another library's.

    Raises:
        UserError: If it is unknown, or its library is not installed or broken.
    """
    known = {**ATTACKS, **EXTERNAL}
    return known[check_choice("attack", name, known)]()
