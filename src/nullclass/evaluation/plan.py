"""Reads what the user passes to an evaluation: attacks, budgets, numbers of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nullclass.attacks import Attack, find_attack
from nullclass.attacks.base import BaseAttack, check_attack
from nullclass.attacks.ensemble import AttackEnsemble, attacks_inside
from nullclass.core.checks import check_count
from nullclass.core.errors import UserError
from nullclass.core.norms import check_eps
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.results.frames import READ_AS_MISSING
from nullclass.results.schema import CLEAN, PROOF, SMALLEST, UNION

Data = LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
"""Images in [0,1] with labels: tensors, a loader, or :class:`nullclass.data.LabelledImages`."""


@dataclass(frozen=True)
class PlannedAttack:
    """An attack, its budgets in increasing order, and how many of the first images it attacks."""

    attack: Attack
    budgets: list[float]
    num_images: int


def plan_attacks(
    attacks: str | Sequence[str] | Mapping[str, Attack],
    eps: Any,
    norm: str,
    num_images: int | Mapping[str, int] | None,
    data: LabelledImages,
) -> dict[str, PlannedAttack]:
    """Return attacks by name, with checked budgets and numbers of images.

    Raises:
        UserError: If an attack, a budget or a number is invalid or missing.
    """
    named = find_attacks(attacks)
    for setting, name in ((eps, "eps"), (num_images, "num_images")):
        missing = set(named) - set(setting) if isinstance(setting, Mapping) else set()
        if missing:
            raise UserError(f"{name} has no entry for the attack {min(missing)!r}")
    plan = {}
    for name, attack in named.items():
        num = num_images[name] if isinstance(num_images, Mapping) else num_images
        num = len(data) if num is None else check_count("num_images", num)
        budgets = find_budgets(eps[name] if isinstance(eps, Mapping) else eps, norm, data)
        plan[name] = PlannedAttack(attack, budgets, min(num, len(data)))
    return plan


def check_can_begin(
    plan: Mapping[str, PlannedAttack], model: Classifier, image: Tensor, label: Tensor, norm: str
) -> None:
    """Refuse attacks that cannot begin: their norm, objective or targets do not suit the model.

    Args:
        plan: The attacks.
        model: The model to attack.
        image: ``(1, C, H, W)``, any image.
        label: ``(1,)``, its label.
        norm: Norm of the budgets.

    Raises:
        UserError: If there is one.
    """
    for planned in plan.values():
        if isinstance(planned.attack, BaseAttack):
            image, label = image.to(model.mean.device), label.to(model.mean.device)
            planned.attack.begin(model, image, label, eps=planned.budgets[0], norm=norm)


def find_attacks(attacks: str | Sequence[str] | Mapping[str, Attack]) -> dict[str, Attack]:
    """Return attacks by name, from names or from a dictionary of attacks.

    Raises:
        UserError: If one is unknown or not an attack, or its name is reserved.
    """
    if isinstance(attacks, str):
        attacks = (attacks,)
    if isinstance(attacks, Sequence) and all(isinstance(name, str) for name in attacks):
        attacks = {name: find_attack(name) for name in attacks}
    if not isinstance(attacks, Mapping):
        raise UserError(
            "attacks must be names, or a dictionary from names to attacks such as "
            f"{{'pgd': PGD()}}, not {type(attacks).__name__}"
        )
    for name, attack in attacks.items():
        check_attack(attack)
        for each in (name, *(attack.names if isinstance(attack, AttackEnsemble) else ())):
            if not isinstance(each, str) or not each.isprintable() or each in READ_AS_MISSING:
                raise UserError(
                    f"{each!r} cannot be an attack's name in a table: choose another word"
                )
        targets = [getattr(each, "targets", None) for each in attacks_inside(attack)]
        if any(np.ndim(each) for each in targets if each is not None):
            raise UserError(
                f"the attack {name!r} has one target per image, but an evaluation attacks only the "
                "images still active: give one target for all, or call the attack itself"
            )
    reserved = {CLEAN, UNION, PROOF, SMALLEST} & set(attacks)
    if reserved:
        raise UserError(f"the name {min(reserved)!r} is reserved: give the attack another name")
    return dict(attacks)


def find_budgets(eps: Any, norm: str, data: LabelledImages) -> list[float]:
    """Return budgets in increasing order, each once, from a number or several.

    Raises:
        UserError: If there is none, or one is not a number or out of range.
    """
    is_several = isinstance(eps, Sequence | Tensor | np.ndarray) and not isinstance(eps, str)
    is_several = is_several and np.ndim(eps) == 1
    shape = torch.Size(data.images.shape)
    budgets = {float(check_eps(value, norm, shape)) for value in (eps if is_several else [eps])}
    if not budgets:
        raise UserError("give at least one eps")
    return sorted(budgets)
