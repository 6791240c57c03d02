"""Bounds of a network's logits over a ball of images. An open set of verifiers.

A verifier maps a network, images, a radius, a norm and a matrix C to lower bounds of ``C z`` over
the ball around each image, z the logits. It may be loose, but never wrong. To add one, write one
file and one line in :data:`VERIFIERS`. What is proved with it about a classifier, per image, is in
:mod:`nullclass.scoring.proofs`.
"""

from __future__ import annotations

from nullclass.certify.cascade import (
    BUDGET,
    CASCADE,
    MARGIN,
    STAGES,
    VERSION,
    Settled,
    add_to_records,
    record_stages,
    settle,
)
from nullclass.certify.corners import corner_margins
from nullclass.certify.crown import crown_ibp_bounds
from nullclass.certify.interval import (
    Propagation,
    interval_bounds,
    lower_bounds,
    propagate,
)
from nullclass.certify.layers import Monotone
from nullclass.certify.margins import (
    label_margins,
    label_spec,
    not_fooled_margins,
    pair_spec,
)
from nullclass.certify.network import Network, Step, read_network
from nullclass.certify.regions import (
    Box,
    Region,
    check_images,
    check_radius,
    in_range,
    region_around,
)
from nullclass.certify.rounding import NO_ROUNDING, Rounding, proof_dtype, rounding_for
from nullclass.certify.verifiers import VERIFIERS, Verifier, find_verifier

__all__ = [
    "BUDGET",
    "CASCADE",
    "MARGIN",
    "NO_ROUNDING",
    "STAGES",
    "VERIFIERS",
    "VERSION",
    "Box",
    "Monotone",
    "Network",
    "Propagation",
    "Region",
    "Rounding",
    "Settled",
    "Step",
    "Verifier",
    "add_to_records",
    "check_images",
    "check_radius",
    "corner_margins",
    "crown_ibp_bounds",
    "find_verifier",
    "in_range",
    "interval_bounds",
    "label_margins",
    "label_spec",
    "lower_bounds",
    "not_fooled_margins",
    "pair_spec",
    "proof_dtype",
    "propagate",
    "read_network",
    "record_stages",
    "region_around",
    "rounding_for",
    "settle",
]
