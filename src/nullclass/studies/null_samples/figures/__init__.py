"""Figures of the study ``null-samples``."""

from __future__ import annotations

from nullclass.report.sections import Figure
from nullclass.studies.null_samples.figures.adversarial_samples import adversarial_samples
from nullclass.studies.null_samples.figures.clean_scores import clean_scores
from nullclass.studies.null_samples.figures.epsilon_thresholds import epsilon_thresholds
from nullclass.studies.null_samples.figures.null_images import null_images
from nullclass.studies.null_samples.figures.scores_at_threshold import scores_at_threshold
from nullclass.studies.null_samples.figures.scores_versus_epsilon import (
    model_comparison,
    scores_versus_epsilon,
)
from nullclass.studies.null_samples.figures.training_histories import training_histories
from nullclass.studies.null_samples.figures.white_box import white_box

FIGURES: dict[str, Figure] = {
    "scores-at-threshold": scores_at_threshold,
    "white-box": white_box,
    "clean-scores": clean_scores,
    "epsilon-thresholds": epsilon_thresholds,
    "scores-versus-epsilon": scores_versus_epsilon,
    "model-comparison": model_comparison,
    "null-images": null_images,
    "adversarial-samples": adversarial_samples,
    "training-histories": training_histories,
}
"""Figures of the study ``null-samples``, by name."""
