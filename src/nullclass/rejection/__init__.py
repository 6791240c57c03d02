"""Ways to answer null: a threshold on the null score, proofs, randomised smoothing. An open set.

Each one wraps a classifier into a classifier with null, so that every attack and every evaluation
takes it like any other model.
"""

from __future__ import annotations

from nullclass.rejection.certificates import Certificates, weights_sha256
from nullclass.rejection.checking import check_certificates
from nullclass.rejection.provable import ProvableNull
from nullclass.rejection.smoothing import SmoothedNull
from nullclass.rejection.threshold import (
    Threshold,
    ThresholdedClassifier,
    calibrate,
    null_scores,
    overlap,
    with_threshold,
)

__all__ = [
    "Certificates",
    "ProvableNull",
    "SmoothedNull",
    "Threshold",
    "ThresholdedClassifier",
    "calibrate",
    "check_certificates",
    "null_scores",
    "overlap",
    "weights_sha256",
    "with_threshold",
]
