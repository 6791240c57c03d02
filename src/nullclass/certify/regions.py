"""Sets of inputs and activations: boxes, and the L2 ball that the first layer may see.

A box is centre and radius, coordinate by coordinate. What is stored is exact: the set is all real
vectors within ``radius`` of ``centre``, whatever the operations that made the two have rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.certify.rounding import Rounding
from nullclass.core.errors import UserError

REGION_NORMS = ("linf", "l2")
"""Norms of the balls that are bounded."""


@dataclass(frozen=True)
class Box:
    """All vectors within ``radius`` of ``center``, coordinate by coordinate."""

    center: Tensor
    """``(N, …)``."""
    radius: Tensor
    """The same shape, never negative."""

    @property
    def lower(self) -> Tensor:
        """The lower corner, rounded to nearest."""
        return self.center - self.radius

    @property
    def upper(self) -> Tensor:
        """The upper corner, rounded to nearest."""
        return self.center + self.radius

    def corners(self, rounding: Rounding) -> tuple[Tensor, Tensor]:
        """Both corners, each moved outward by more than its own rounding."""
        lower, upper = self.lower, self.upper
        outward = 2 * rounding.unit
        return lower - outward * lower.abs(), upper + outward * upper.abs()

    @staticmethod
    def between(lower: Tensor, upper: Tensor, rounding: Rounding) -> Box:
        """The box with these corners, each of which may be off by two roundings."""
        center, radius = (lower + upper) / 2, (upper - lower) / 2
        if rounding.unit:
            largest = torch.maximum(lower.abs(), upper.abs())
            radius = radius + (8 * rounding.unit * largest + rounding.tiny)
        return Box(center, radius)


@dataclass(frozen=True)
class Ball:
    """All ``center + scale * d + e`` with ``||d||_2 <= radius`` and ``|e| <= slack``."""

    center: Tensor
    """``(N, …)``."""
    scale: Tensor
    """``(1, …)``, not negative: what a standardisation did to the ball."""
    radius: float
    slack: Tensor
    """``(N, …)``: how far the centre may be from the exact one, coordinate by coordinate."""

    def boxed(self, rounding: Rounding) -> Box:
        """The smallest box around it."""
        radius = self.radius * self.scale + self.slack
        return Box(self.center, radius * (1 + rounding.gamma(2)) + rounding.tiny)


Region = Box | Ball


def boxed(region: Region, rounding: Rounding) -> Box:
    """The region as a box."""
    return region if isinstance(region, Box) else region.boxed(rounding)


def region_around(images: Tensor, radius: float, norm: str, rounding: Rounding) -> Region:
    """The images of [0,1] within ``radius`` of each image; for L2 the whole ball.

    (The box is cut at 0 and 1, which is much: most pixels of a digit are 0. The convex set that the
    claim of :mod:`nullclass.rejection.provable` needs is then the ball cut by the unit cube.)

    Args:
        images: ``(N, C, H, W)`` in [0,1].
        radius: In pixel units; in [0, 1] for ``linf``, finite and not negative for ``l2``.
        norm: ``linf`` or ``l2``.
        rounding: Margins to move the box outward by.

    Raises:
        UserError: If the norm or the radius makes no sense.
    """
    check_radius(radius, norm)
    if norm == "l2":
        return Ball(images, torch.ones_like(images[:1]), radius, torch.zeros_like(images))
    if rounding.unit == 0:
        return Box.between((images - radius).clamp(min=0), (images + radius).clamp(max=1), rounding)
    # One rounding of radius itself to the images' type, one of the difference: then the corners
    # themselves are moved outward, not only what Box.between adds.
    outward = radius * (1 + 2 * rounding.unit) + 2 * rounding.unit
    lower, upper = (images - outward).clamp(min=0), (images + outward).clamp(max=1)
    return Box.between(lower, upper, rounding)


def lie_in_range(images: Tensor) -> Tensor:
    """Whether each image ``(N, …)`` has all its pixels in [0,1]; booleans ``(N,)``, NaN is not."""
    return ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)


def check_range(images: Tensor) -> None:
    """Refuse images outside [0,1]; pixels that are NaN are left to be answered null.

    Raises:
        UserError: If a pixel is below 0 or above 1.
    """
    if bool(((images < 0) | (images > 1)).any()):
        raise UserError(
            "images must lie in [0,1], where radii and proofs are defined, and these reach from "
            f"{float(images.min()):.6g} to {float(images.max()):.6g}"
        )


def check_radius(radius: float, norm: str) -> None:
    """Refuse radii that are none.

    Raises:
        UserError: If the norm is unknown, or the radius is negative, not finite, or over 1 in L∞.
    """
    if norm not in REGION_NORMS:
        raise UserError(f"nothing is proved in the norm {norm!r}: choose linf or l2")
    if not math.isfinite(radius) or radius < 0:
        raise UserError(f"the radius must be finite and not negative, not {radius}")
    if norm == "linf" and radius > 1:
        raise UserError(f"the radius must be in [0, 1] (pixel units) for linf, not {radius}")
