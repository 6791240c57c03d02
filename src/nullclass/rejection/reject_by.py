"""One interface for detectors: a classifier that answers null where a score exceeds a threshold.

A detector maps images and the classifier's logits to a score s(x), larger for more null. The model
has K + 1 logits, the last of them

    z_null(x) = max_k z_k(x) + s(x) - tau,        so that null wins exactly if s(x) > tau.

Attacks, scores and red flags take it like any other model, and gradients flow through s. If s has
no useful gradient, ``surrogate`` names a differentiable stand-in for the backward pass only (BPDA,
Athalye et al. 2018, "Obfuscated gradients give a false sense of security", section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nullclass.core.checks import check_choice
from nullclass.core.errors import NotFiniteError, UserError
from nullclass.core.outcomes import check_finite
from nullclass.models.classifier import (
    Classifier,
    append_null,
    at_least_float32,
    check_classifier,
)
from nullclass.models.network import as_module
from nullclass.rejection.fixed import FixedClassifier
from nullclass.rejection.scores import SCORES
from nullclass.rejection.threshold import Threshold, with_threshold

Detector = nn.Module | Callable[[Tensor, Tensor], Tensor]
"""Images ``(N, C, H, W)`` in [0,1] and logits ``(N, K)`` to scores ``(N,)``, larger for more null.
An image's score must not depend on the other images."""


class LogitScore(nn.Module):
    """A detector that looks at the logits only.

    Args:
        name: Key of :data:`nullclass.rejection.scores.SCORES`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = check_choice("score", name, SCORES)

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return scores ``(N,)``."""
        return SCORES[self.name](logits)


class DetectingClassifier(FixedClassifier):
    """A classifier with the null logit ``max_k z_k + s(x)``: null exactly if s(x) > 0.

    Its null score (:func:`nullclass.rejection.null_scores`) is s, so
    :func:`nullclass.rejection.calibrate` and :func:`nullclass.rejection.with_threshold` are those
    of any other model.

    Args:
        model: K classes; shared, not copied, and always in evaluation mode.
        detector: A :data:`Detector`, or a name in :data:`nullclass.rejection.SCORES`.
        surrogate: A differentiable function of the same arguments and shape. If given, the gradient
            of s is that of the surrogate, and the detector is called without gradients.

    Raises:
        UserError: If the model has null and the score is not ``null-logit``, or the other way
            round, or detector or surrogate are no functions.
    """

    def __init__(
        self, model: Classifier, detector: Detector | str, surrogate: Detector | None = None
    ) -> None:
        scorer = _as_detector(detector)
        reads_null = isinstance(scorer, LogitScore) and scorer.name == "null-logit"
        if not reads_null:
            check_without_null(model)
        elif not check_classifier(model).has_null:
            raise UserError(
                f"the classifier has no null logit: use one of {', '.join(SCORES)} but null-logit"
            )
        super().__init__(model)
        self.detector = scorer
        self.surrogate = None if surrogate is None else _as_detector(surrogate, "surrogate")
        self.to(model.mean.device).eval()

    def all_logits(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K + 1)`` of images ``(N, C, H, W)`` in [0,1].

        Raises:
            UserError: If the detector's scores are not finite or of the wrong shape, or if it
                changes its input; the same of the surrogate.
        """
        logits = at_least_float32(self.model(images))
        if self.surrogate is None:
            score = _score("detector", self.detector, images, logits)
        else:
            with torch.no_grad():
                value = _score("detector", self.detector, images.detach(), logits.detach())
            score = with_gradient_of(value, _score("surrogate", self.surrogate, images, logits))
        return append_null(logits[:, : self.num_classes], score)


def check_without_null(classifier: Classifier) -> Classifier:
    """Return a classifier that a detector may be added to.

    Raises:
        UserError: If it has null already.
    """
    if check_classifier(classifier).has_null:
        raise UserError(
            "the classifier has null already, and a detector would be a second rule for it: give a "
            "classifier of K logits, or put a threshold on its own null logit by "
            "nullclass.rejection.with_threshold"
        )
    return classifier


def reject_by(
    classifier: Classifier,
    detector: Detector | str,
    threshold: Threshold | float | None = None,
    *,
    surrogate: Detector | None = None,
) -> Classifier:
    """Return the classifier with null where the detector's score exceeds a threshold.

    Args:
        classifier: K classes; shared, not copied, and always in evaluation mode.
        detector: A module or function ``(images, logits) -> scores``, larger for more null: images
            ``(N, C, H, W)`` in [0,1], logits ``(N, K)``, scores ``(N,)``. Or the name of a score of
            the logits (:data:`nullclass.rejection.SCORES`).
        threshold: tau. Default 0, until it is calibrated: call
            :func:`nullclass.rejection.calibrate` on the result, then this function again.
        surrogate: A differentiable function of the same arguments and shape, whose gradient attacks
            get for that of the detector. Scores and decisions remain those of the detector.

    Returns:
        A classifier of K + 1 logits: null wins exactly if the score is larger than tau, in the
        precision of the logits.

    Raises:
        UserError: If the classifier has null already, the detector is no function, or the threshold
            is not finite.
    """
    model = DetectingClassifier(classifier, detector, surrogate)
    return model if threshold is None else with_threshold(model, threshold)


def with_gradient_of(value: Tensor, stand_in: Tensor) -> Tensor:
    """Return ``value`` exactly, with the gradient of ``stand_in``, which is finite."""
    return value.detach() + (stand_in - stand_in.detach())


def _as_detector(detector: object, name: str = "detector") -> nn.Module:
    if isinstance(detector, str) and detector in SCORES:
        return LogitScore(detector)
    if isinstance(detector, type) or not callable(detector):
        raise UserError(
            f"the {name} must be a module or function (images, logits) -> scores, or one of "
            f"{', '.join(SCORES)}, not {detector!r}: a threshold needs a score"
        )
    return as_module(detector)


def _score(name: str, function: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
    """Return the scores of a detector or surrogate, checked, at least float32."""
    given = images.clone(), logits.clone()  # NumPy changes a tensor unnoticed by its version
    score: object = function(*given)
    if not isinstance(score, Tensor) or score.shape != images.shape[:1]:
        what = f"shape {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
        raise UserError(
            f"the {name} returns {what} for {len(images)} images: let it return a tensor of shape "
            f"({len(images)},), one score per image"
        )
    if torch.compiler.is_exporting():  # a graph has no such checks
        return at_least_float32(score)
    check_finite(logits)
    if not bool(score.isfinite().all()):
        raise NotFiniteError(
            f"the {name} returns scores that are not finite (NaN or infinite): bound them, for "
            "example by torch.nan_to_num"
        )
    if not (torch.equal(given[0], images) and torch.equal(given[1], logits)):
        raise UserError(
            f"the {name} changes its input in place: write x = x - m for x -= m, and copy what "
            "NumPy changes"
        )
    return at_least_float32(score).to(images.device)
