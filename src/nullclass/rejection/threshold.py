"""Refusing by a threshold on the null score, instead of by argmax.

    s(x) = z_null(x) - max_k z_k(x),         null if s(x) > tau

With a null class and tau = 0 that is argmax. A model without one gets ``z_null = logsumexp_k z_k``,
so that s = -log(largest softmax probability) >= 0: confidence thresholding (Hendrycks & Gimpel
2017), which is also the detector of CCAT (Stutz et al. 2020).

:func:`with_threshold` builds the threshold into the logits. Attacks on the outcome are then attacks
on this very rule: they know tau, and climb towards it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nullclass.attacks.base import frozen
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.models.classifier import Classifier

BATCH_SIZE = 256
"""Images scored at once."""


@dataclass(frozen=True)
class Threshold:
    """A threshold on the null score, and how it was found.

    Raises:
        UserError: If the value is not a finite number.
    """

    value: float
    """tau: an image is null if its score is larger."""
    clean_null_rate: float | None = None
    """The share of clean images that may be null by it, if it was calibrated to one."""
    held_out_null_rate: float | None = None
    """The share of the held-out images that is null by it; never more."""
    num_images: int = 0
    """How many held-out images it was calibrated on."""
    images: frozenset[str] = field(default=frozenset(), repr=False)
    """SHA-256 of every one of them (see :func:`overlap`)."""

    def __post_init__(self) -> None:
        """Refuse a threshold that decides nothing."""
        if not math.isfinite(self.value):
            raise UserError(
                f"the threshold must be a finite number, not {self.value}: take argmax (0 for a "
                "model with null), or calibrate one on held-out images"
            )

    @property
    def is_calibrated(self) -> bool:
        """Whether it comes from :func:`calibrate`, so that it is known which images chose it."""
        return self.num_images > 0

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values; for the images one fingerprint, ``None`` if there are none."""
        told = "\n".join(sorted(self.images)).encode()
        return {
            "value": self.value,
            "clean_null_rate": self.clean_null_rate,
            "held_out_null_rate": self.held_out_null_rate,
            "num_images": self.num_images,
            "images_sha256": hashlib.sha256(told).hexdigest() if self.images else None,
        }


class Thresholded(nn.Module):
    """The body of a classifier that refuses by a threshold.

    Its logits are those of the classifier, the null logit lowered by tau, all of them relative to
    the largest real one. That common shift changes no decision, softmax or gradient of either; it
    makes ``null logit > 0`` the very comparison ``s > tau``, free of another rounding.

    Args:
        classifier: The model, with or without null; shared, not copied.
        threshold: Where to refuse.
    """

    def __init__(self, classifier: Classifier, threshold: Threshold) -> None:
        super().__init__()
        self.classifier = classifier
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K + 1)`` of images ``(N, C, H, W)`` in [0,1]."""
        num_classes = self.classifier.num_classes
        logits = _at_least_float32(self.classifier(images))
        top = logits[:, :num_classes].max(dim=1, keepdim=True).values
        null = null_scores(logits, num_classes)[:, None] - self.threshold.value
        relative = torch.cat([logits[:, :num_classes] - top, null], dim=1)
        # Zero, but with a gradient: each logit's own stays what it was before the shift.
        return relative + (top - top.detach())


def null_scores(logits: Tensor, num_classes: int) -> Tensor:
    """How much each image looks like null: ``z_null - max real logit``.

    Without a null logit ``logsumexp(real logits) - max real logit``, i.e. minus the logarithm of
    the largest softmax probability, exact also where that is within rounding of 1.

    Args:
        logits: ``(N, K)`` (a model that always answers) or ``(N, K + 1)`` (null last).
        num_classes: K, the number of real classes.

    Returns:
        ``(N,)``, larger for more null; of the logits' type, float32 at least. Positive if argmax
        is null (the first of equal logits wins); without a null logit in [0, log K].

    Raises:
        ValueError: If the logits have neither K nor K + 1 columns.
    """
    if logits.ndim != 2 or logits.shape[1] not in (num_classes, num_classes + 1):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}; {num_classes} classes need "
            f"(N, {num_classes}) or, with null, (N, {num_classes + 1})"
        )
    logits = _at_least_float32(logits)
    top = logits[:, :num_classes].max(dim=1, keepdim=True)
    if logits.shape[1] > num_classes:
        return logits[:, num_classes] - top.values.squeeze(1)
    others = (logits - top.values).scatter(1, top.indices, -torch.inf)
    return others.exp().sum(dim=1).log1p()


def calibrate(
    model: Classifier,
    held_out: LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    clean_null_rate: float = 0.01,
) -> Threshold:
    """The threshold by which clean images are null at most at a wanted rate.

    Split conformal (Vovk et al. 2005): of H held-out scores, floor(rate (H + 1)) - 1 are larger
    than tau. Hence at most that share of the held-out images is null, and a further image of the
    same distribution is null with a probability of at most the rate, whatever the distribution and
    however small H. Tied scores are accepted or refused together, so they can only lower the rate.
    Of the values that do the same, tau is the middle between two scores: no held-out image's answer
    hangs on rounding.

    Args:
        model: The model, with or without null.
        held_out: Clean images of real classes, used neither in training nor in the evaluation.
        clean_null_rate: The rate, in (0, 1).

    Returns:
        The threshold, with fingerprints of the images.

    Raises:
        UserError: If the rate is out of range, there are too few images for it or some are labelled
            null, or the model's scores are not finite.
    """
    if not 0 < clean_null_rate < 1:
        raise UserError(f"the clean null rate must lie between 0 and 1, not {clean_null_rate}")
    data = tensors_or_loader(held_out)
    if int(data.labels.min()) < 0:
        raise UserError("held-out images labelled null cannot tell how often clean ones are null")
    # As a decimal: 0.29 * 100 is a little less than 29 in floating point.
    rate = Fraction(str(float(clean_null_rate)))
    num_larger = math.floor(rate * (len(data) + 1)) - 1
    if num_larger < 0:
        raise UserError(
            f"a clean null rate of {clean_null_rate:g} needs at least {math.ceil(1 / rate) - 1} "
            f"held-out images, and there are {len(data)}: hold out more, or allow a larger rate"
        )
    scores = []
    with frozen(model), torch.no_grad():
        for images in _batches(data):
            logits = model(images.to(model.mean.device))
            scores.append(null_scores(logits, model.num_classes).cpu().numpy())
    ordered = np.sort(np.concatenate(scores))
    if not np.isfinite(ordered).all():
        raise UserError("the null scores of the held-out images are not finite: look at the model")
    last = ordered[len(ordered) - 1 - num_larger]
    larger = ordered[ordered > last]
    # In the scores' own precision, as it is compared with them.
    tau = last if len(larger) == 0 else last + (larger[0] - last) / 2
    return Threshold(
        value=float(tau),
        clean_null_rate=float(clean_null_rate),
        held_out_null_rate=float(np.mean(ordered > tau)),
        num_images=len(data),
        images=frozenset(_hashes(data)),
    )


def with_threshold(model: Classifier, threshold: Threshold | float) -> Classifier:
    """The classifier that answers null exactly if the null score exceeds the threshold.

    At a score of just tau it answers; otherwise it answers the best real class, as before. Its own
    null score is s - tau. Gradients flow, and every attack and evaluation takes it as any model
    with null.

    Args:
        model: The model, with or without null; the new one shares its weights and its device.
        threshold: tau, compared in the logits' precision.

    Returns:
        A classifier of K + 1 logits.

    Raises:
        UserError: If the threshold is not a finite number.
    """
    if not isinstance(threshold, Threshold):
        threshold = Threshold(float(threshold))
    thresholded = Classifier(
        Thresholded(model, threshold), model.num_classes, image_shape=model.image_shape
    ).to(model.mean.device)
    # Only the new shells: the model stays in the mode it is in.
    thresholded.training = thresholded.body.training = model.training
    return thresholded


def overlap(threshold: Threshold, data: LabelledImages) -> int:
    """How many images the threshold was calibrated on; any at all make an evaluation biased.

    Images count as the same if every pixel is, be they stored as bytes or as floats.

    Args:
        threshold: A threshold; one that was not calibrated overlaps with nothing.
        data: The images of an evaluation.

    Returns:
        The number of images in ``data`` that are among the held-out ones.
    """
    if not threshold.images:
        return 0
    return sum(told in threshold.images for told in _hashes(data))


def _hashes(data: LabelledImages) -> Iterator[str]:
    for images in _batches(data):
        for image in images.cpu().contiguous().numpy():
            yield hashlib.sha256(image.tobytes()).hexdigest()


def _batches(data: LabelledImages) -> Iterator[Tensor]:
    for start in range(0, len(data), BATCH_SIZE):
        yield data.batch(slice(start, start + BATCH_SIZE))[0]


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
