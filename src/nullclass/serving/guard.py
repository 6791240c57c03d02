"""A model behind a service: checks of the input, answers with reasons, counters, an alarm."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self, TextIO

import msgspec
import numpy as np
import torch
from torch import Tensor

from nullclass.core.checks import check_count
from nullclass.core.devices import exact_float32
from nullclass.core.errors import NotFiniteError, UserError, describe_error
from nullclass.core.outcomes import NULL_LABEL, predictions
from nullclass.core.provenance import now
from nullclass.data import LabelledImages
from nullclass.data.arrays import ROUNDING, to_float
from nullclass.metrics.rates import null_band
from nullclass.models.classifier import Classifier, check_classifier
from nullclass.rejection import ThresholdedClassifier, null_scores
from nullclass.rejection.certificates import CertifiedNull
from nullclass.serving.alarm import MEAN_IMAGES, NullRateAlarm

MAX_IMAGES = 1024
"""Default of the most images in one request."""


class InvalidInputError(UserError):
    """Images that are not given to the model."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """``type``, ``shape``, ``range``, ``not-finite`` or ``number``; ``model`` if it fails
        on them; ``json`` for a line of ``nullclass guard`` without images."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to one image."""

    label: int
    """0 … K - 1, or -1 for null."""
    reason: str | None
    """Why it is null."""
    null_score: float | None
    """Less the threshold, if there is one: above 0 for null. None if the logits are not finite."""


class Guard:
    """Answers images with a model, and refuses what the model was not made for.

    Input is checked before the model sees it: floats in [0,1], or bytes, of the model's shape.
    Answers are counted. If a band of the null rate on clean images is known, a sequential test
    raises an alarm when the rate leaves it (:mod:`nullclass.serving.alarm`). The band is that of a
    calibrated threshold, comes from :meth:`calibrate`, or is given. Nothing is written to the disk.
    May be used by several threads.

    Args:
        model: In evaluation mode from here on.
        image_shape: ``(C, H, W)``. Default: that of the model.
        band: Lower and upper end of the null rate.
        mean_images: The mean number of images between false alarms is at least this.
        max_images: The most images in one request.
        log: Where to write one JSON line per request and alarm.

    Raises:
        UserError: If the model has no null or its image shape is unknown, or a number is out of
            range.
    """

    def __init__(
        self,
        model: Classifier,
        *,
        image_shape: Sequence[int] | None = None,
        band: tuple[float, float] | None = None,
        mean_images: float = MEAN_IMAGES,
        max_images: int = MAX_IMAGES,
        log: TextIO | None = None,
    ) -> None:
        self.model = check_classifier(model).eval()
        if not model.has_null:
            raise UserError("the model never answers null, so there is nothing to guard with")
        shape = model.image_shape if image_shape is None else tuple(image_shape)
        if shape is None or len(shape) != 3:
            raise UserError("the shape of the model's images is needed: image_shape=(C, H, W)")
        self.image_shape = tuple(check_count("image_shape", side) for side in shape)
        self.max_images = check_count("max_images", max_images)
        self.mean_images = mean_images
        self.alarm: NullRateAlarm | None = None
        self._null_reason = _null_reason(model)
        self._log = log
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._nulls: Counter[str] = Counter()
        self._invalid: Counter[str] = Counter()
        if band is None and isinstance(model, ThresholdedClassifier):
            band = model.threshold.band() if model.threshold.is_calibrated else None
        if band is not None:
            self.alarm = NullRateAlarm(*band, mean_images)

    def calibrate(self, clean: LabelledImages, confidence: float = 0.99) -> Self:
        """Measure the null rate on clean images and set the band of the alarm; return the guard.

        Args:
            clean: Images as they are expected in use, not used for training.
            confidence: Of each interval's ends together (:func:`nullclass.serving.null_band`).
        """
        num_nulls = 0
        for images, _ in clean.batches():
            num_nulls += self._predict(images)[0].count(NULL_LABEL)
        self.alarm = NullRateAlarm(*null_band(num_nulls, len(clean), confidence), self.mean_images)
        return self

    def answer(self, images: Any) -> list[Answer]:
        """Return one answer per image.

        Args:
            images: ``(N, C, H, W)``, or one image ``(C, H, W)``: a tensor or array of floats in
                [0,1] or of bytes, or nested lists of numbers in [0,1].

        Raises:
            InvalidInputError: If they are anything else, or the model fails on them. This is
                counted, too.
        """
        started = time.perf_counter()
        try:
            checked = self.check(images)
        except InvalidInputError as error:
            self.count_invalid(error)
            raise
        try:
            labels, scores = self._predict(checked)
        except Exception as error:  # the model's code
            failure = InvalidInputError("model", f"the model failed: {describe_error(error)}")
            self.count_invalid(failure)
            raise failure from error
        answers = [
            Answer(NULL_LABEL, self._reason(score), score)
            if label == NULL_LABEL
            else Answer(label, None, score)
            for label, score in zip(labels, scores, strict=True)
        ]
        reasons = [answer.reason for answer in answers if answer.reason is not None]
        with self._lock:
            self._counts["requests"] += 1
            self._counts["images"] += len(answers)
            self._nulls.update(reasons)
            if self._log is not None:
                self._write(
                    "answers",
                    labels=labels,
                    nulls=Counter(reasons),
                    milliseconds=round(1000 * (time.perf_counter() - started), 3),
                )
            if self.alarm is not None and self.alarm.observe(np.array(labels) == NULL_LABEL):
                self._counts["alarms"] += 1
                values = self._alarm_values()
                del values["evidence"]  # of the test that has begun anew
                self._write("alarm", **values)
        return answers

    def count_invalid(self, error: InvalidInputError) -> None:
        """Count and log an invalid request."""
        with self._lock:
            self._counts["requests"] += 1
            self._invalid[error.kind] += 1
            self._write("invalid", kind=error.kind, message=str(error))

    def check(self, images: Any) -> Tensor:
        """Return images as the model takes them, float32 ``(N, C, H, W)``.

        Raises:
            InvalidInputError: As :meth:`answer`; nothing is counted.
        """
        values = _as_tensor(images)
        if values.ndim == 3:
            values = values[None]
        if values.ndim != 4 or tuple(values.shape[1:]) != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise InvalidInputError(
                "shape",
                f"images must have the shape (N, {shape}) or ({shape}), not {tuple(values.shape)}",
            )
        if not 1 <= len(values) <= self.max_images:
            raise InvalidInputError(
                "number", f"a request has 1 to {self.max_images} images, not {len(values)}"
            )
        if values.dtype == torch.uint8:
            return to_float(values)
        low, high = (end.item() for end in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN anywhere makes both NaN
            raise InvalidInputError("not-finite", "images have pixels that are NaN or infinite")
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise InvalidInputError(
                "range", f"pixels must be in [0,1], and these range from {low:.4g} to {high:.4g}"
            )
        values = values.float()
        return values if low >= 0 and high <= 1 else values.clamp(0, 1)

    def counters(self) -> dict[str, Any]:
        """Return JSON values: requests, images, nulls by reason, invalid requests by kind, alarms,
        and lines that could not be written to the log.

        ``alarm`` holds the band, the evidence against it, and the mean number of images between
        false alarms; None without a band.
        """
        with self._lock:
            return {
                "requests": self._counts["requests"],
                "images": self._counts["images"],
                "nulls": dict(self._nulls),
                "invalid": dict(self._invalid),
                "alarms": self._counts["alarms"],
                "lines_lost": self._counts["lines_lost"],
                "alarm": None if self.alarm is None else self._alarm_values(),
            }

    def _predict(self, images: Tensor) -> tuple[list[int], list[float | None]]:
        """Return labels and null scores; null and None where the logits are not finite."""
        with exact_float32(), torch.no_grad():
            try:
                logits = self.model(images.to(self.model.mean.device)).cpu()
            except NotFiniteError:  # of some image: a detector refuses the batch
                if len(images) == 1:
                    return [NULL_LABEL], [None]
                parts = [self._predict(image) for image in images.split(1)]
                return [part[0][0] for part in parts], [part[1][0] for part in parts]
            labels: list[int] = predictions(logits, self.model.num_classes).tolist()
            scores: list[float | None] = null_scores(logits, self.model.num_classes).tolist()
            if not math.isfinite(float(logits.sum())):  # NaN or infinite logits make the sum so
                for index in (~logits.isfinite().all(dim=1)).nonzero().flatten().tolist():
                    labels[index], scores[index] = NULL_LABEL, None
        return labels, scores

    def _reason(self, score: float | None) -> str:
        return "the logits are not finite" if score is None else self._null_reason

    def _alarm_values(self) -> dict[str, Any]:
        assert self.alarm is not None
        return {
            "low": self.alarm.low,
            "high": self.alarm.high,
            "evidence": self.alarm.evidence,
            "mean_images_between_false_alarms": self.alarm.mean_images,
        }

    def _write(self, event: str, **values: Any) -> None:
        if self._log is not None:
            line = msgspec.json.encode({"time": now(), "event": event, **values}).decode()
            try:
                self._log.write(line + "\n")
                self._log.flush()
            except OSError:  # such as a full disk: the answers matter more
                self._counts["lines_lost"] += 1


def _null_reason(model: Classifier) -> str:
    if isinstance(model, ThresholdedClassifier):
        return f"the null score less the threshold, {model.threshold.value:g}, is above 0"
    if isinstance(model, CertifiedNull):
        return f"no class is proved within {model.radius:g} ({model.norm})"
    return "null has the largest logit"


def _has_text(values: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether nested lists hold text: NumPy gives every entry the space of the longest."""
    kinds = set(map(type, values))
    if any(issubclass(kind, str | bytes) for kind in kinds):
        return True
    is_nested = any(issubclass(kind, list | tuple) for kind in kinds)
    return is_nested and any(_has_text(v) for v in values if isinstance(v, list | tuple))


def _as_tensor(images: Any) -> Tensor:
    """Return floats or bytes as a tensor.

    Raises:
        InvalidInputError: If they are neither.
    """
    try:
        if isinstance(images, Tensor):
            values = images.detach().cpu()
        elif isinstance(images, np.ndarray):
            values = torch.from_numpy(np.array(images))
        elif isinstance(images, list | tuple):
            array = None if _has_text(images) else np.asarray(images)
            if array is None or array.dtype.kind not in "iuf":
                raise InvalidInputError("type", "images as lists must hold numbers, equally many")
            values = torch.from_numpy(array.astype(np.float64))
        else:
            raise InvalidInputError(
                "type", f"images must be a tensor, an array or lists, not {type(images).__name__}"
            )
        if values.dtype != torch.uint8 and not values.is_floating_point():
            raise InvalidInputError(
                "type", f"pixels must be floats in [0,1] or bytes, not {values.dtype}"
            )
        if values.is_nested or values.layout != torch.strided:
            raise InvalidInputError("type", "images must be a dense tensor")
        is_used = values.dtype in (torch.uint8, torch.float32, torch.float64)
        return values if is_used else values.float()
    except InvalidInputError:
        raise
    except Exception as error:
        raise InvalidInputError(
            "type", f"images cannot be read as numbers ({describe_error(error)})"
        ) from None
