"""Random flips, rotations, stretches, shears and shifts of training images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ANGLE = 0.12
"""Largest rotation at strength 1, in radians (7 degrees)."""

STRETCH = 0.08
"""Largest stretch along each axis, and largest shear, at strength 1."""

SHIFT = 1.0
"""Largest shift along each axis at strength 1, in pixels."""


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2.

    Args:
        images: ``(N, C, H, W)``.
        generator: Decides which.
    """
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(3), images)


def jittered(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Rotate, stretch, shear and shift each image by uniform random amounts.

    Images are resampled bilinearly, with zeros outside.

    Args:
        images: ``(N, C, H, W)`` in [0,1].
        strength: Factor of the largest amounts, at least 0.
        generator: Draws the amounts.

    Returns:
        Images of the same shape, in [0,1].
    """
    num, _, height, width = images.shape
    drawn = (2 * torch.rand(6, num, generator=generator) - 1) * strength
    drawn = drawn.to(images.device)
    angle, shear = ANGLE * drawn[0], STRETCH * drawn[1]
    wide, high = 1 + STRETCH * drawn[2], 1 + STRETCH * drawn[3]
    # The grid's unit is half an image, so that what turns one axis into the other is scaled.
    ratio = height / width
    right, down = 2 * SHIFT / width * drawn[4], 2 * SHIFT / height * drawn[5]
    first = torch.stack([wide * angle.cos(), (-high * angle.sin() + shear) * ratio, right], dim=1)
    second = torch.stack([wide * angle.sin() / ratio, high * angle.cos(), down], dim=1)
    maps = torch.stack([first, second], dim=1).to(images.dtype)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)
