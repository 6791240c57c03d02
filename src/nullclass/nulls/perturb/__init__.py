"""How images are perturbed by a given size. A new maker: a file and a line in PERTURBATIONS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nullclass.core.errors import UserError
from nullclass.core.norms import find_norm
from nullclass.nulls.perturb.base import Perturbation
from nullclass.nulls.perturb.fgsm import FGSMPerturbation
from nullclass.nulls.perturb.noise import NoisePerturbation
from nullclass.nulls.perturb.pgd import PGDPerturbation
from nullclass.nulls.perturb.sparse import SparsePerturbation

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
"""Name to a dataclass of settings, which all have defaults."""


def make_perturbation(name: str, settings: Mapping[str, Any] | None = None) -> Perturbation:
    """The maker of that name with these settings.

    Raises:
        UserError: If it is unknown, or refuses the settings.
    """
    try:
        return _find(name)(**(settings or {}))
    except TypeError as error:
        raise UserError(f"the perturbation {name!r} has no such settings: {error}") from None


def check_norm(perturbation_name: str, norm: str) -> None:
    """Refuse a norm that is unknown, or that the maker cannot be told a size in.

    Raises:
        UserError: If it is so, or there is no such maker.
    """
    find_norm(norm)
    known = _find(perturbation_name).norms
    if norm not in known:
        raise UserError(
            f"the perturbation {perturbation_name!r} cannot be told a size in {norm!r}: choose "
            f"one of {', '.join(known)}, or another perturbation"
        )


def name_of(perturbation: Perturbation) -> str:
    """A maker's name here, or its type's where it is one of the user's own."""
    names = {kind: name for name, kind in PERTURBATIONS.items()}
    return names.get(type(perturbation), type(perturbation).__name__)


def _find(name: str) -> type[Perturbation]:
    if name not in PERTURBATIONS:
        raise UserError(
            f"there is no perturbation {name!r}: choose one of {', '.join(PERTURBATIONS)}"
        )
    return PERTURBATIONS[name]
