"""Studies: an open set, one folder per study. Imports neither torch nor pandas.

A study's folder holds its claim and trials (``config``), its page (``page``), and the tables and
figures that only it uses. A new study is a folder and a line in :data:`STUDIES`.
"""

from __future__ import annotations

from nullclass.core.errors import UserError
from nullclass.experiments.study import Study
from nullclass.studies.detectors.config import DETECTORS_STUDY
from nullclass.studies.fgsm_null.config import FGSM_NULL
from nullclass.studies.null_probabilities.config import NULL_PROBABILITIES
from nullclass.studies.null_samples.config import NULL_SAMPLES
from nullclass.studies.provable_null.config import PROVABLE_NULL, PROVABLE_NULL_FASHION
from nullclass.studies.ramps.config import RAMPS

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        FGSM_NULL,
        RAMPS,
        NULL_SAMPLES,
        NULL_PROBABILITIES,
        PROVABLE_NULL,
        PROVABLE_NULL_FASHION,
        DETECTORS_STUDY,
    )
}


def find_study(name: str, data: str | None = None) -> Study:
    """The study of that name.

    Args:
        name: A key of :data:`STUDIES`.
        data: Name of the dataset; the study's own by default. A study with a second dataset has an
            entry for each.

    Raises:
        UserError: If there is no such study, or not with that dataset.
    """
    if name not in STUDIES:
        raise UserError(f"there is no study {name!r}: choose one of {', '.join(STUDIES)}")
    study = STUDIES[name]
    if data in (None, study.dataset):
        return study
    other = f"{name}-{data}"
    if other not in STUDIES:
        raise UserError(f"the study {name} uses {study.dataset}, not {data}")
    return STUDIES[other]
