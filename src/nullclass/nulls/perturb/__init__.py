"""Perturbations of a given size. An open set: a class and a line in PERTURBATIONS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nullclass.core.checks import check_choice
from nullclass.core.errors import UserError
from nullclass.core.norms import find_norm
from nullclass.nulls.perturb.base import Perturbation, check_support
from nullclass.nulls.perturb.makers import (
    FGSMPerturbation,
    NoisePerturbation,
    PGDPerturbation,
    SparsePerturbation,
)

__all__ = [
    "PERTURBATIONS",
    "FGSMPerturbation",
    "NoisePerturbation",
    "PGDPerturbation",
    "Perturbation",
    "SparsePerturbation",
    "check_norm",
    "make_perturbation",
    "name_of",
]

PERTURBATIONS: dict[str, type[Perturbation]] = {
    "fgsm": FGSMPerturbation,
    "pgd": PGDPerturbation,
    "sparse": SparsePerturbation,
    "noise": NoisePerturbation,
}
"""Names to dataclasses of settings, which all have defaults."""


def make_perturbation(name: str, settings: Mapping[str, Any] | None = None) -> Perturbation:
    """Return the perturbation of that name with these settings.

    Raises:
        UserError: If it is unknown, or refuses the settings.
    """
    kind = PERTURBATIONS[check_choice("perturbation", name, PERTURBATIONS)]
    try:
        return kind(**(settings or {}))
    except TypeError as error:
        raise UserError(f"the perturbation {name!r} has no such settings: {error}") from None


def check_norm(name: str, norm: str) -> None:
    """Raise UserError unless the perturbation of that name supports the norm."""
    find_norm(norm)
    check_support(PERTURBATIONS[check_choice("perturbation", name, PERTURBATIONS)], norm)


def name_of(perturbation: Perturbation) -> str:
    """Return a perturbation's name in PERTURBATIONS, or its class name."""
    names = {kind: name for name, kind in PERTURBATIONS.items()}
    return names.get(type(perturbation), type(perturbation).__name__)
