"""Figures of one evaluated model. A new one: one file, one line in :data:`EVALUATED`; it reads
rows, never a
model.
"""

from __future__ import annotations

from collections.abc import Callable

from nullclass.report.blocks import Drawing
from nullclass.report.figures.confusion import confusion
from nullclass.report.figures.contribution import contribution
from nullclass.report.figures.first_to_fall import first_to_fall
from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.null_scores import null_scores
from nullclass.report.figures.outcomes import outcomes
from nullclass.report.figures.risk_coverage import risk_coverage
from nullclass.report.figures.roc import roc
from nullclass.report.figures.security_curves import security_curves
from nullclass.report.figures.smallest_eps import smallest_eps
from nullclass.results.store import Run

Figure = Callable[[Run], Drawing | None]
"""Draws a run; ``None`` if the run has nothing to show."""

EVALUATED: dict[str, Figure] = {
    "security-curves": security_curves,
    "outcomes": outcomes,
    "contribution": contribution,
    "confusion": confusion,
    "null-scores": null_scores,
    "roc": roc,
    "risk-coverage": risk_coverage,
    "smallest-eps": smallest_eps,
    "first-to-fall": first_to_fall,
    "gallery": gallery,
}
"""Figures of one evaluated model, by name."""
