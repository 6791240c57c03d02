"""Figures of the study ``provable-null``."""

from __future__ import annotations

from nullclass.report.figures.gallery import gallery
from nullclass.report.sections import Figure
from nullclass.studies.provable_null.figures.answered_refused import answered_refused
from nullclass.studies.provable_null.figures.certified_training import certified_training
from nullclass.studies.provable_null.figures.proved_and_attacked import proved_and_attacked
from nullclass.studies.provable_null.figures.radius import radius

FIGURES: dict[str, Figure] = {
    "proved-and-attacked": proved_and_attacked,
    "radius": radius,
    "answered-refused": answered_refused,
    "training": certified_training,
    "gallery": gallery,
}
"""Figures of the study ``provable-null``, by name."""
