"""Rejection by a threshold on the null score, instead of by argmax.

    s(x) = z_null(x) - max_k z_k(x),         null if s(x) > tau

With a null class and tau = 0 this is argmax. A model without null gets ``z_null = logsumexp_k
z_k``, so that s = -log(largest softmax probability) >= 0: confidence thresholding (Hendrycks &
Gimpel 2017), also the detector of CCAT (Stutz et al. 2020). Other scores and detectors become the
null logit by :func:`nullclass.rejection.reject_by`.

:func:`with_threshold` builds the threshold into the logits, so that attacks know tau and have its
gradient.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nullclass.core.checks import check_number, check_rate
from nullclass.core.devices import exact_float32
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.metrics.rates import null_band
from nullclass.models.classifier import (
    Classifier,
    append_null,
    at_least_float32,
    check_classifier,
)
from nullclass.rejection.certificates import image_hashes
from nullclass.rejection.scores import null_scores


@dataclass(frozen=True)
class Threshold:
    """A threshold on the null score, and its calibration.

    Raises:
        UserError: If the value is not finite.
    """

    value: float
    """tau: an image is null if its score is larger."""
    clean_null_rate: float | None = None
    """Target share of clean images answered null, if calibrated."""
    held_out_null_rate: float | None = None
    """Share of the held-out images answered null; at most the target."""
    num_images: int = 0
    """Number of held-out images."""
    images: frozenset[str] = field(default=frozenset(), repr=False)
    """SHA-256 of each held-out image (see :func:`overlap`)."""

    def __post_init__(self) -> None:
        """Check the value."""
        check_number("threshold", self.value)

    @property
    def is_calibrated(self) -> bool:
        """Whether it comes from :func:`calibrate`, so that its held-out images are known."""
        return self.num_images > 0

    def band(self, confidence: float = 0.99) -> tuple[float, float]:
        """Return an interval that holds the null rate of new clean images.

        The rate of the threshold as it is, on images of the distribution of the held-out ones.
        Over the draw of these, 1 less the distribution function at the k-th largest of H scores is
        Beta(k, H + 1 - k) if the distribution is continuous, and smaller otherwise (Wilks 1941;
        Vovk 2012, "Conditional validity of inductive conformal predictors").

        Args:
            confidence: Each end is wrong with probability at most (1 - confidence) / 2.

        Raises:
            UserError: If the threshold is not calibrated.
        """
        num_larger = self._num_larger()
        low, high = null_band(num_larger, self.num_images, confidence)
        # With equal scores at the threshold fewer are larger, and then nothing bounds from below.
        is_tied = round((self.held_out_null_rate or 0) * self.num_images) != num_larger
        return (0.0 if is_tied else low), high

    @property
    def guarantee(self) -> str | None:
        """What the calibration promises, in words; None if there is none."""
        if not self.is_calibrated:
            return None
        _, highest = self.band(0.98)  # of which each end is wrong with probability 0.01
        upper = Context(prec=3, rounding=ROUND_CEILING).create_decimal_from_float(highest)
        return (
            "Split conformal, for any distribution: a clean image drawn as the "
            f"{self.num_images:,} held-out ones is null with probability at most "
            f"{self.clean_null_rate:g}, over the draw of both. With confidence 0.99 over the "
            f"held-out images, the share of such images answered null is at most {upper:f}. "
            "Nothing is promised for attacked images or another distribution."
        )

    def _num_larger(self) -> int:
        """Return the number of held-out scores that may be larger than tau."""
        if self.clean_null_rate is None or not self.is_calibrated:
            raise UserError("the threshold is not calibrated: use nullclass.rejection.calibrate")
        return _num_larger(self.clean_null_rate, self.num_images)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; the images as one fingerprint, ``None`` if there are none."""
        lines = "\n".join(sorted(self.images)).encode()
        return {
            "value": self.value,
            "clean_null_rate": self.clean_null_rate,
            "held_out_null_rate": self.held_out_null_rate,
            "num_images": self.num_images,
            "images_sha256": hashlib.sha256(lines).hexdigest() if self.images else None,
        }


class ThresholdedClassifier(Classifier):
    """A classifier that answers null exactly if the null score exceeds a threshold.

    Its logits are those of the model with the null logit lowered by tau, relative to the largest
    real logit (:func:`nullclass.models.classifier.append_null`). At a score of exactly tau it
    answers. Its own null score is s - tau.

    Args:
        model: With or without null; shared, not copied.
        threshold: The threshold; compared in the precision of the logits.

    Raises:
        UserError: If the model has a threshold already: the two would add up.
    """

    body: Classifier
    threshold: Threshold

    def __init__(self, model: Classifier, threshold: Threshold) -> None:
        if isinstance(model, ThresholdedClassifier):
            raise UserError(
                f"the model already has a threshold, {model.threshold.value:g}, and another one "
                "would be added to it: give the model inside it (.model), or no threshold"
            )
        super().__init__(model, model.num_classes, image_shape=model.image_shape)
        self.threshold = threshold
        self.to(model.mean.device)
        self.training = model.training

    @property
    def model(self) -> Classifier:
        """The model inside."""
        return self.body

    def all_logits(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K + 1)`` of images ``(N, C, H, W)`` in [0,1]."""
        logits = at_least_float32(self.model(images))
        scores = null_scores(logits, self.num_classes)
        return append_null(logits[:, : self.num_classes], scores - self.threshold.value)


def with_threshold(model: Classifier, threshold: Threshold | float) -> ThresholdedClassifier:
    """Return the model with null decided by a threshold: a classifier of K + 1 logits.

    Args:
        model: With or without null; the result shares its weights, device and mode.
        threshold: tau.

    Raises:
        UserError: If the threshold is not finite, or the model has one already.
    """
    if isinstance(threshold, Tensor) and threshold.numel() == 1:
        threshold = threshold.item()
    if not isinstance(threshold, Threshold):
        threshold = Threshold(check_number("threshold", threshold))
    return ThresholdedClassifier(check_classifier(model), threshold)


@exact_float32()
def calibrate(
    model: Classifier,
    held_out: LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    clean_null_rate: float = 0.01,
) -> Threshold:
    """Return the threshold at which at most a given share of clean images is null.

    Split conformal (Vovk et al. 2005): of H held-out scores, floor(rate (H + 1)) - 1 are larger
    than tau. So at most this share of the held-out images is null, and a new image of the same
    distribution is null with probability at most the rate, for any distribution and any H. Tied
    scores are accepted or refused together, which can only lower the rate. tau is the midpoint
    between two scores, so that no held-out image's answer depends on rounding.

    Args:
        model: With or without null, possibly with a detector
            (:func:`nullclass.rejection.reject_by` without a threshold).
        held_out: Clean images of real classes, used neither for training nor for evaluation.
        clean_null_rate: The rate, in (0, 1).

    Raises:
        UserError: If the rate is out of range, there are too few images for it, some are labelled
            null, or the scores are not finite.
    """
    check_classifier(model)
    check_rate("clean_null_rate", clean_null_rate)
    data = tensors_or_loader(held_out)
    if int(data.labels.min()) < 0:
        raise UserError("held-out images must not be labelled null: the rate is of clean images")
    num_larger = _num_larger(clean_null_rate, len(data))
    if num_larger < 0:
        fewest = math.ceil(1 / Fraction(str(float(clean_null_rate)))) - 1
        raise UserError(
            f"a clean null rate of {clean_null_rate:g} needs at least {fewest} "
            f"held-out images, and there are {len(data)}: hold out more, or allow a larger rate"
        )
    scores = []
    with frozen(model), torch.no_grad():
        for images, _ in data.batches():
            logits = model(images.to(model.mean.device))
            scores.append(null_scores(logits, model.num_classes).cpu().numpy())
    ordered = np.sort(np.concatenate(scores))
    if not np.isfinite(ordered).all():
        raise UserError("the model's null scores of the held-out images are not finite")
    last = ordered[len(ordered) - 1 - num_larger]
    larger = ordered[ordered > last]
    # In the precision of the scores, in which the two are compared.
    tau = last if len(larger) == 0 else last + (larger[0] - last) / 2
    return Threshold(
        value=float(tau),
        clean_null_rate=float(clean_null_rate),
        held_out_null_rate=float(np.mean(ordered > tau)),
        num_images=len(data),
        images=frozenset(_hashes(data)),
    )


def _num_larger(rate: float, num_images: int) -> int:
    """Return how many held-out scores may exceed the threshold; -1 if there are too few."""
    # As a decimal: 0.29 * 100 is a little less than 29 in floating point.
    return math.floor(Fraction(str(float(rate))) * (num_images + 1)) - 1


def overlap(threshold: Threshold, data: LabelledImages) -> int:
    """Return the number of images the threshold was calibrated on; any of them bias an evaluation.

    Images are the same if all pixels are, whether stored as bytes or as floats.
    """
    if not threshold.images:
        return 0
    return sum(digest in threshold.images for digest in _hashes(data))


def _hashes(data: LabelledImages) -> Iterator[str]:
    for images, _ in data.batches():
        yield from image_hashes(images)
