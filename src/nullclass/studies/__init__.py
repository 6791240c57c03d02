"""The studies. A new one: one file, one line in :data:`STUDIES`. Imports no torch."""

from __future__ import annotations

from nullclass.core.errors import UserError
from nullclass.experiments.config import AttackPlan, NullPlan, Preset, Study, Training, Trial
from nullclass.studies.fgsm_null.config import FGSM_NULL
from nullclass.studies.null_probabilities.config import NULL_PROBABILITIES
from nullclass.studies.null_samples.config import NULL_SAMPLES
from nullclass.studies.provable_null.config import PROVABLE_NULL, PROVABLE_NULL_FASHION
from nullclass.studies.ramps.config import RAMPS

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
    study.name: study
    for study in (
        FGSM_NULL,
        RAMPS,
        NULL_SAMPLES,
        NULL_PROBABILITIES,
        PROVABLE_NULL,
        PROVABLE_NULL_FASHION,
    )
}
"""Studies by name."""


def find_study(name: str, data: str | None = None) -> Study:
    """The study of that name.

    Args:
        name: In :data:`STUDIES`.
        data: Name of the dataset to make it with; its own unless given. A study that is made with
            another too has an entry for each.

    Raises:
        UserError: If it is unknown, or not made with that dataset.
    """
    if name not in STUDIES:
        raise UserError(f"there is no study {name!r}: choose one of {', '.join(STUDIES)}")
    study = STUDIES[name]
    if data in (None, study.dataset):
        return study
    other = f"{name}-{data}"
    if other not in STUDIES:
        raise UserError(f"the study {name} is made with {study.dataset}, not with {data}")
    return STUDIES[other]
