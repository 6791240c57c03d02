"""The figures. A new one: one file, one line in :data:`FIGURES`; it reads rows, never a model."""

from __future__ import annotations

from collections.abc import Callable

from nullclass.results.records import Run
from nullclass.report.blocks import Drawing
from nullclass.studies.null_probabilities.defences import with_names
from nullclass.studies.null_samples.figures.adversarial_samples import adversarial_samples
from nullclass.studies.provable_null.figures.answered_refused import answered_refused
from nullclass.studies.provable_null.figures.certified_training import certified_training
from nullclass.studies.null_samples.figures.clean_scores import clean_scores
from nullclass.report.figures.confusion import confusion
from nullclass.report.figures.contribution import contribution
from nullclass.studies.null_samples.figures.epsilon_thresholds import epsilon_thresholds
from nullclass.report.figures.first_to_fall import first_to_fall
from nullclass.report.figures.gallery import gallery
from nullclass.studies.null_probabilities.figures.null_curves import null_curves
from nullclass.studies.null_samples.figures.null_images import null_images
from nullclass.report.figures.null_scores import null_scores
from nullclass.report.figures.outcomes import outcomes
from nullclass.studies.provable_null.figures.proved_and_attacked import proved_and_attacked
from nullclass.studies.provable_null.figures.radius import radius
from nullclass.report.figures.risk_coverage import risk_coverage
from nullclass.report.figures.roc import roc
from nullclass.studies.null_samples.figures.scores_at_threshold import scores_at_threshold
from nullclass.studies.null_samples.figures.scores_versus_epsilon import model_comparison, scores_versus_epsilon
from nullclass.studies.fgsm_null.figures.security import security
from nullclass.report.figures.security_curves import security_curves
from nullclass.studies.null_probabilities.figures.sizes import answers_by_size, probability_by_size
from nullclass.report.figures.smallest_eps import smallest_eps
from nullclass.studies.null_probabilities.figures.survival import survival
from nullclass.report.figures.training import training
from nullclass.studies.null_samples.figures.training_histories import training_histories
from nullclass.studies.null_probabilities.figures.transfer_matrix import other_transfers, transfer_matrix
from nullclass.studies.fgsm_null.figures.unnoticed import unnoticed
from nullclass.report.figures.white_box import white_box

Figure = Callable[[Run], Drawing | None]
"""Draws a run; ``None`` if the run has nothing the figure could show."""

FIGURES: dict[str, Figure] = {
    "outcomes": outcomes,
    "security": security,
    "unnoticed": unnoticed,
    "gallery": gallery,
    "training": training,
}
"""Figures of a study with attacks, by name."""

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

NULL_SAMPLES: dict[str, Figure] = {
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

NULL_PROBABILITIES: dict[str, Figure] = {
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

PROVABLE_NULL: dict[str, Figure] = {
    "proved-and-attacked": proved_and_attacked,
    "radius": radius,
    "answered-refused": answered_refused,
    "training": certified_training,
    "gallery": gallery,
}
"""Figures of the study ``provable-null``, by name."""
