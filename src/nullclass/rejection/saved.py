"""Detectors of this package as settings and tensors, and back, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.rejection.consistency import Consistency, ConsistentNull
from nullclass.rejection.feature_squeezing import FeatureSqueezing
from nullclass.rejection.kernel_density import KernelDensity
from nullclass.rejection.magnet import AnswerDivergence, Autoencoder, ReconstructionError
from nullclass.rejection.mahalanobis import Mahalanobis
from nullclass.rejection.odds_are_odd import OddsAreOdd
from nullclass.rejection.reject_by import DetectingClassifier, LogitScore

KINDS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "logits": (LogitScore, ("name",)),
    "feature-squeezing": (FeatureSqueezing, ("num_bits", "window")),
    "magnet-reconstruction": (ReconstructionError, ("power",)),
    "magnet-divergence": (AnswerDivergence, ("temperature",)),
    "kernel-density": (KernelDensity, ("bandwidth", "layer")),
    "mahalanobis": (Mahalanobis, ("layers",)),
    "odds-are-odd": (OddsAreOdd, ()),
    "consistency": (
        Consistency,
        ("radius", "norm", "num_steps", "num_restarts", "is_unrolled", "seed"),
    ),
}
"""By name, the class of a detector and the attributes that are its settings."""


def detector_state(
    model: DetectingClassifier,
) -> tuple[str, dict[str, Any], dict[str, Tensor]] | None:
    """Return name, settings and tensors of a model's detector; None if it is not of this package.

    Or if it has a surrogate, an autoencoder of your own, or a network that is not the model's, or
    is of a derived class, which may answer otherwise.
    """
    detector = model.detector
    autoencoder = getattr(detector, "autoencoder", None)
    if (
        type(model) not in (DetectingClassifier, ConsistentNull)
        or model.surrogate is not None
        or getattr(detector, "classifier", model.model) is not model.model
        or not (autoencoder is None or type(autoencoder) is Autoencoder)
    ):
        return None
    for name, (kind, settings) in KINDS.items():
        if type(detector) is kind:
            return name, {key: getattr(detector, key) for key in settings}, _tensors(detector)
    return None


def rebuild_detector(
    classifier: Classifier, name: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> DetectingClassifier:
    """Return a classifier with the detector of a :func:`detector_state`.

    Raises:
        UserError: If name, settings or tensors are not those of a detector.
    """
    try:
        if name == "consistency":
            return ConsistentNull(classifier, **settings)
        detector = _build(classifier, name, settings, tensors)
        if _tensors(detector).keys() != tensors.keys():
            raise KeyError
        detector.load_state_dict(tensors, strict=False)
        return DetectingClassifier(classifier, detector)
    except (KeyError, TypeError, IndexError, RuntimeError):
        raise UserError(f"there is no detector {name!r} of these settings and tensors") from None


def _build(
    classifier: Classifier, name: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> nn.Module:
    if name == "logits":
        return LogitScore(**settings)
    if name == "feature-squeezing":
        return FeatureSqueezing(classifier, **settings)
    if name == "kernel-density":
        return KernelDensity(classifier, tensors["features"], tensors["labels"], **settings)
    if name == "mahalanobis":
        layers = settings["layers"]
        pairs = [(tensors[f"means_{n}"], tensors[f"whitening_{n}"]) for n in range(len(layers))]
        return Mahalanobis(classifier, pairs, layers)
    if name == "odds-are-odd":
        return OddsAreOdd(classifier, **{key: tensors[key] for key in ("noise", "mean", "std")})
    num_channels, width = tensors["autoencoder.last.weight"].shape[:2]
    autoencoder = Autoencoder(num_channels, width).requires_grad_(False)
    if name == "magnet-reconstruction":
        return ReconstructionError(autoencoder, **settings)
    if name == "magnet-divergence":
        return AnswerDivergence(classifier, autoencoder, **settings)
    raise KeyError


def _tensors(detector: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a detector without those of its network."""
    state = detector.state_dict()
    return {name: value for name, value in state.items() if not name.startswith("classifier.")}
