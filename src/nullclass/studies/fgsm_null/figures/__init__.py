"""Figures of the study ``fgsm-null``."""

from __future__ import annotations

from nullclass.report.figures import Figure
from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.outcomes import outcomes
from nullclass.report.figures.training import training
from nullclass.studies.fgsm_null.figures.security import security
from nullclass.studies.fgsm_null.figures.unnoticed import unnoticed

FIGURES: dict[str, Figure] = {
    "outcomes": outcomes,
    "security": security,
    "unnoticed": unnoticed,
    "gallery": gallery,
    "training": training,
}
"""Figures of a study with attacks, by name."""
