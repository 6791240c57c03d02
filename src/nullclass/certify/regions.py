"""Sets of images and activations: boxes, and the L2 ball around an image.

A box is a center and a radius per coordinate. The stored numbers are exact: the set contains all
real vectors within ``radius`` of ``center``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.certify.rounding import Rounding
from nullclass.core.checks import check_choice, check_positive, check_share
from nullclass.core.errors import UserError


@dataclass(frozen=True)
class Box:
    """All vectors within ``radius`` of ``center``, per coordinate."""

    center: Tensor
    """``(N, …)``."""
    radius: Tensor
    """``(N, …)``, not negative."""

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
        lower, upper, outward = self.lower, self.upper, 2 * rounding.unit
        return (
            torch.sub(lower, lower.abs(), alpha=outward),
            torch.add(upper, upper.abs(), alpha=outward),
        )

    @staticmethod
    def between(lower: Tensor, upper: Tensor, rounding: Rounding) -> Box:
        """The box with these corners, each of which may have two rounding errors."""
        center, radius = (lower + upper) / 2, (upper - lower) / 2
        if rounding.unit:
            largest = torch.maximum(lower.abs(), upper.abs())
            radius = torch.add(radius, largest, alpha=8 * rounding.unit) + rounding.tiny
        return Box(center, radius)


@dataclass(frozen=True)
class Ellipsoid:
    """All ``center + scale * d + e`` with ``||d||_2 <= radius`` and ``|e| <= slack``."""

    center: Tensor
    """``(N, …)``."""
    scale: Tensor
    """``(1, …)``, not negative: the scale of a standardisation."""
    radius: float
    slack: Tensor
    """``(N, …)``: error of the center, per coordinate."""


Region = Box | Ellipsoid


def to_box(region: Region, rounding: Rounding) -> Box:
    """The smallest box around a region."""
    if isinstance(region, Box):
        return region
    radius = region.radius * region.scale + region.slack
    return Box(region.center, radius * (1 + rounding.gamma(2)) + rounding.tiny)


def region_around(images: Tensor, radius: float, norm: str, rounding: Rounding) -> Region:
    """The images of [0,1] within ``radius`` of each image; for L2 the ball, beyond [0,1] too.

    The L-infinity box is cut at 0 and 1, which matters: most pixels of a digit are 0.

    Args:
        images: ``(N, C, H, W)`` in [0,1].
        radius: In pixel units; in [0, 1] for ``linf``, finite and not negative for ``l2``.
        norm: ``linf`` or ``l2``.
        rounding: Margins to move the box outward by.

    Raises:
        UserError: If norm or radius is invalid.
    """
    check_radius(radius, norm)
    if norm == "l2":
        return Ellipsoid(images, torch.ones_like(images[:1]), radius, torch.zeros_like(images))
    # Rounding of radius to the images' type and of the difference; Box.between adds its own.
    outward = radius * (1 + 2 * rounding.unit) + 2 * rounding.unit
    lower, upper = (images - outward).clamp(min=0), (images + outward).clamp(max=1)
    return Box.between(lower, upper, rounding)


def in_range(images: Tensor) -> Tensor:
    """``(N,)`` booleans: all pixels of an image are in [0,1]; NaN is not."""
    return ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)


def check_images(images: Tensor, image_shape: Sequence[int] | None) -> None:
    """Check the shape and range of images; NaN pixels are allowed, and answered null.

    Args:
        images: To check.
        image_shape: ``(C, H, W)``, or None for any.

    Raises:
        UserError: If the shape differs, or a pixel is below 0 or above 1.
    """
    shape = tuple(images.shape[1:])
    if images.ndim != 4 or (image_shape is not None and shape != tuple(image_shape)):
        expected = "(C, H, W)" if image_shape is None else tuple(image_shape)
        raise UserError(f"images must have the shape {expected} each, and these have {shape}")
    if bool(((images < 0) | (images > 1)).any()):
        raise UserError(
            "images must be in [0,1], where radii and proofs are defined, and these range from "
            f"{float(images.min()):.7g} to {float(images.max()):.7g}"
        )


def check_radius(radius: object, norm: str) -> None:
    """Check a radius in pixel units and its norm.

    Raises:
        UserError: If the norm is unknown, or the radius is negative, not finite, or over 1 in L∞.
    """
    if check_choice("the norm of a proof", norm, ("linf", "l2")) == "linf":
        check_share("radius, in pixel units,", radius)
    elif radius != 0:
        check_positive("radius", radius)
