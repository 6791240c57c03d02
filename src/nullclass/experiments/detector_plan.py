"""The config of a detector around a trained model. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CONSISTENCY = "consistency"
"""Name of :class:`nullclass.rejection.ConsistentNull` in a :class:`DetectorPlan`."""


@dataclass(frozen=True)
class DetectorPlan:
    """A detector around a trained model without null."""

    name: str
    """Name in :data:`nullclass.rejection.DETECTORS`, or :data:`CONSISTENCY`."""
    num_images: int = 0
    """Number of training images that it is fitted to, from the first; not for consistency."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of consistency; the detectors have their papers' settings."""
