"""The studies. A new one: one file, one line in :data:`STUDIES`. Imports no torch."""

from __future__ import annotations

from nullclass.errors import UserError
from nullclass.studies.base import AttackPlan, NullPlan, Preset, Study, Training, Trial
from nullclass.studies.fgsm_null import FGSM_NULL
from nullclass.studies.null_probabilities import NULL_PROBABILITIES
from nullclass.studies.null_samples import NULL_SAMPLES
from nullclass.studies.ramps import RAMPS

__all__ = [
    "STUDIES",
    "AttackPlan",
    "NullPlan",
    "Preset",
    "Study",
    "Training",
    "Trial",
    "find_study",
]

STUDIES: dict[str, Study] = {
    study.name: study for study in (FGSM_NULL, RAMPS, NULL_SAMPLES, NULL_PROBABILITIES)
}
"""Studies by name."""


def find_study(name: str) -> Study:
    """The study of that name.

    Raises:
        UserError: If it is unknown.
    """
    if name not in STUDIES:
        raise UserError(f"there is no study {name!r}: choose one of {', '.join(STUDIES)}")
    return STUDIES[name]
