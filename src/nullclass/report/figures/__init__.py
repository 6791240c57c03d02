"""Figures of one evaluated model: an open set.

A new one is a file and a line in :data:`EVALUATION_FIGURES`. Figures read rows, never a model.
``outcomes``, ``gallery`` and ``training`` also draw studies.
"""

from __future__ import annotations

from nullclass.report.figures.confusion import confusion
from nullclass.report.figures.contribution import contribution
from nullclass.report.figures.gallery import gallery, smallest_eps_images
from nullclass.report.figures.null_scores import null_scores, risk_coverage, roc
from nullclass.report.figures.outcomes import outcomes
from nullclass.report.figures.security_curves import security_curves
from nullclass.report.figures.smallest_eps import smallest_eps
from nullclass.report.sections import Figure

EVALUATION_FIGURES: dict[str, Figure] = {
    "security-curves": security_curves,
    "outcomes": outcomes,
    "contribution": contribution,
    "confusion": confusion,
    "null-scores": null_scores,
    "roc": roc,
    "risk-coverage": risk_coverage,
    "smallest-eps": smallest_eps,
    "smallest-eps-images": smallest_eps_images,
    "gallery": gallery,
}
