"""Figures of the study ``null-probabilities``."""

from __future__ import annotations

from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.training import training
from nullclass.report.sections import Figure
from nullclass.studies.null_probabilities.defences import with_names
from nullclass.studies.null_probabilities.figures.null_curves import null_curves
from nullclass.studies.null_probabilities.figures.sizes import answers_by_size, probability_by_size
from nullclass.studies.null_probabilities.figures.survival import survival
from nullclass.studies.null_probabilities.figures.transfer_matrix import (
    other_transfers,
    transfer_matrix,
)

FIGURES: dict[str, Figure] = {
    "null-curves": null_curves,
    "probability-by-size": probability_by_size,
    "answers-by-size": answers_by_size,
    "survival": survival,
    "transfer-matrix": transfer_matrix,
    "other-transfers": other_transfers,
    "gallery": lambda run: gallery(with_names(run)),
    "training": lambda run: training(with_names(run)),
}
"""Figures of the study ``null-probabilities``, by name."""
