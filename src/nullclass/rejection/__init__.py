"""Ways to answer null: scores, detectors, consistency, proofs, smoothing. An open set.

Each one wraps a classifier into a classifier with null, so that every attack and every evaluation
takes it like any other model. :data:`DETECTORS` lists the detectors.
"""

from __future__ import annotations

from nullclass.rejection.certificates import Certificates, weights_sha256
from nullclass.rejection.checking import check_certificates
from nullclass.rejection.consistency import ConsistentNull
from nullclass.rejection.detectors import DETECTORS
from nullclass.rejection.feature_squeezing import FeatureSqueezing
from nullclass.rejection.gates import EstimatedGate, ThroughGate, see_through
from nullclass.rejection.kernel_density import KernelDensity, fit_kernel_density
from nullclass.rejection.magnet import (
    AnswerDivergence,
    Autoencoder,
    ReconstructionError,
    train_autoencoder,
)
from nullclass.rejection.mahalanobis import Mahalanobis, fit_mahalanobis
from nullclass.rejection.odds_are_odd import OddsAreOdd, fit_odds_are_odd
from nullclass.rejection.provable import ProvableNull, with_proof
from nullclass.rejection.reject_by import DetectingClassifier, reject_by
from nullclass.rejection.saved import detector_state, rebuild_detector
from nullclass.rejection.scores import SCORES, null_scores
from nullclass.rejection.smoothing import SmoothedNull
from nullclass.rejection.threshold import (
    Threshold,
    ThresholdedClassifier,
    calibrate,
    overlap,
    with_threshold,
)

__all__ = [
    "DETECTORS",
    "SCORES",
    "AnswerDivergence",
    "Autoencoder",
    "Certificates",
    "ConsistentNull",
    "DetectingClassifier",
    "EstimatedGate",
    "FeatureSqueezing",
    "KernelDensity",
    "Mahalanobis",
    "OddsAreOdd",
    "ProvableNull",
    "ReconstructionError",
    "SmoothedNull",
    "Threshold",
    "ThresholdedClassifier",
    "ThroughGate",
    "calibrate",
    "check_certificates",
    "detector_state",
    "fit_kernel_density",
    "fit_mahalanobis",
    "fit_odds_are_odd",
    "null_scores",
    "overlap",
    "rebuild_detector",
    "reject_by",
    "see_through",
    "train_autoencoder",
    "weights_sha256",
    "with_proof",
    "with_threshold",
]
