"""The figures. A new one: one file, one line in :data:`FIGURES`; it reads rows, never a model."""

from __future__ import annotations

from collections.abc import Callable

from nullclass.records import Run
from nullclass.report.blocks import Drawing
from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.outcomes import outcomes
from nullclass.report.figures.security import security
from nullclass.report.figures.training import training
from nullclass.report.figures.unnoticed import unnoticed

Figure = Callable[[Run], Drawing | None]
"""Draws a run; ``None`` if the run has nothing the figure could show."""

FIGURES: dict[str, Figure] = {
    "outcomes": outcomes,
    "security": security,
    "unnoticed": unnoticed,
    "gallery": gallery,
    "training": training,
}
"""Figures by name."""
