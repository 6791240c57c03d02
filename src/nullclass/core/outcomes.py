"""The vocabulary: every prediction on a labelled image is correct, null or fooled.

K classes, K + 1 logits, null is the *last* logit; outside the logits null is the label -1.
Nothing else in the package decides what a success, a refusal or a failure is
(definitions: ``docs/definitions.md``).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from nullclass.core.errors import NotFiniteError

if TYPE_CHECKING:  # reports read rows and never load torch
    from torch import Tensor

NULL_LABEL = -1
"""The label of null, in predictions and in training targets."""


class Outcome(IntEnum):
    """What became of one image whose true label is known."""

    CORRECT = 0
    """The model answered the true label."""
    NULL = 1
    """The model refused to answer."""
    FOOLED = 2
    """The model answered another real class."""


OUTCOME_NAMES = tuple(outcome.name.lower() for outcome in Outcome)
"""``("correct", "null", "fooled")``, indexed by :class:`Outcome`."""


SUCCESSES = {"fool": ("fooled",), "force-null": ("null",), "untargeted": ("null", "fooled")}
"""Names of the outcomes that are a success for the attacker, by objective."""


def outcome_name(prediction: int, label: int) -> str:
    """Return the name of the outcome of one prediction, -1 for null."""
    if prediction == NULL_LABEL:
        return "null"
    return "correct" if prediction == label else "fooled"


def check_logits(logits: Tensor, num_classes: int) -> None:
    """Raise ValueError unless logits are ``(N, K)`` or ``(N, K + 1)``."""
    if logits.ndim != 2 or logits.shape[1] not in (num_classes, num_classes + 1):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}; {num_classes} classes need "
            f"(N, {num_classes}) or, with null, (N, {num_classes + 1})"
        )


def check_finite(logits: Tensor) -> None:
    """Raise NotFiniteError if a logit is NaN or infinite."""
    if not bool(logits.isfinite().all()):
        raise NotFiniteError(
            "the model's logits are not finite (NaN or infinite): check its weights and inputs"
        )


def predictions(logits: Tensor, num_classes: int) -> Tensor:
    """Turn logits into labels, null as -1.

    Args:
        logits: ``(N, K)`` (a model that always answers) or ``(N, K + 1)`` (null last).
        num_classes: K, the number of real classes.

    Returns:
        ``(N,)`` int64, each in ``0 … K - 1`` or -1. The first of equal logits wins.

    Raises:
        ValueError: If the logits have neither K nor K + 1 columns.
    """
    check_logits(logits, num_classes)
    labels = logits.argmax(dim=1)
    return labels.masked_fill(labels == num_classes, NULL_LABEL)


def outcomes(predicted: Tensor, labels: Tensor) -> Tensor:
    """Score predictions against true labels.

    Args:
        predicted: ``(N,)`` labels, -1 for null.
        labels: ``(N,)`` true labels, none of them negative.

    Returns:
        ``(N,)`` int64 of :class:`Outcome` values.

    Raises:
        ValueError: If the shapes differ, or a true label is negative: what has no true
            class can only be null or not, never correct.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"{tuple(predicted.shape)} predictions, {tuple(labels.shape)} labels")
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError("true labels must not be negative: an outcome needs a true class")
    scored = labels.new_full(labels.shape, int(Outcome.FOOLED))
    scored[predicted == labels] = int(Outcome.CORRECT)
    scored[predicted == NULL_LABEL] = int(Outcome.NULL)
    return scored
