"""How the model of a checkpoint refuses: what its card and the file of its weights say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from nullclass.certify import proof_dtype
from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.rejection import (
    DetectingClassifier,
    ProvableNull,
    SmoothedNull,
    Threshold,
    ThresholdedClassifier,
    detector_state,
    rebuild_detector,
    with_threshold,
)
from nullclass.training.card import (
    CARD,
    Card,
    DetectorRefusal,
    ProvableRefusal,
    Refusal,
    SmoothedRefusal,
    ThresholdRefusal,
)

REFUSAL = "refusal."
"""Before the names of the tensors beside the weights."""

HELD_OUT = REFUSAL + "held_out_sha256"
"""Tensor ``(N, 32)`` of bytes: the hashes of the images that a threshold was calibrated on."""

DETECTOR = REFUSAL + "detector."
"""Before the names of a detector's tensors, which are never rounded."""


def without_refusal(model: Classifier) -> tuple[Classifier, Refusal | None, dict[str, Tensor]]:
    """Return the network without its refusal, the refusal, and its tensors."""
    # Classes derived from these may answer otherwise, and are not recorded.
    if type(model) is ProvableNull:
        return model.model, ProvableRefusal(**_settings(model, ProvableRefusal)), {}
    if type(model) is SmoothedNull:
        return model.model, SmoothedRefusal(**_settings(model, SmoothedRefusal)), {}
    threshold: ThresholdRefusal | None = None
    inside, extra = model, dict[str, Tensor]()
    if type(model) is ThresholdedClassifier:
        inside = model.model
        digests = [list(bytes.fromhex(digest)) for digest in sorted(model.threshold.images)]
        if digests:
            extra[HELD_OUT] = torch.tensor(digests, dtype=torch.uint8)
        of = model.threshold
        threshold = ThresholdRefusal(**of.to_dict(), guarantee=of.guarantee)
    if not isinstance(inside, DetectingClassifier) or (state := detector_state(inside)) is None:
        return inside, threshold, extra
    name, settings, tensors = state
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    refusal = DetectorRefusal(name, json_values(settings), shapes, threshold)
    extra |= {DETECTOR + key: tensor for key, tensor in tensors.items()}
    return inside.model, refusal, extra


def _settings(model: Classifier, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the attributes of a model that have the names of a struct's fields."""
    return {name: getattr(model, name) for name in kind.__struct_fields__}


def is_calibrated(refusal: Refusal | None) -> bool:
    """Return whether a refusal has a threshold that was calibrated with the network."""
    threshold = refusal.threshold if isinstance(refusal, DetectorRefusal) else refusal
    return isinstance(threshold, ThresholdRefusal) and threshold.num_images > 0


def with_refusal(
    model: Classifier, card: Card, extra: dict[str, Tensor], folder: Path
) -> Classifier:
    """Return the model with the refusal of its card, and of the tensors beside its weights."""
    refusal = card.refusal
    if refusal is None:
        return model
    try:
        settings = msgspec.structs.asdict(refusal)
        if isinstance(refusal, ProvableRefusal):
            model = model.to(proof_dtype(model.mean.device, model.mean.dtype))
            return ProvableNull(model, **settings).eval()
        if isinstance(refusal, SmoothedRefusal):
            return SmoothedNull(model, **settings).eval()
        if isinstance(refusal, ThresholdRefusal):
            return _with_threshold(model, refusal, extra)
        tensors = {
            name.removeprefix(DETECTOR): tensor
            for name, tensor in extra.items()
            if name.startswith(DETECTOR)
        }
        model = rebuild_detector(model, refusal.detector, refusal.settings, tensors)
        if refusal.threshold is None:
            return model
        return _with_threshold(model, refusal.threshold, extra)
    except UserError as error:
        raise UserError(
            f"the card {folder / CARD} does not say how its model refuses: {error}"
        ) from None


def _with_threshold(
    model: Classifier, refusal: ThresholdRefusal, extra: dict[str, Tensor]
) -> Classifier:
    settings = msgspec.structs.asdict(refusal)
    del settings["images_sha256"], settings["guarantee"]
    digests = extra[HELD_OUT].tolist() if HELD_OUT in extra else []
    threshold = Threshold(**settings, images=frozenset(bytes(d).hex() for d in digests))
    if threshold.to_dict()["images_sha256"] != refusal.images_sha256:
        raise UserError("its held-out images are others")
    return with_threshold(model, threshold).eval()
