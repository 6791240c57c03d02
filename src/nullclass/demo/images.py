"""Images of the demo: test images, drawings, and links that hold a drawing."""

from __future__ import annotations

import base64
import binascii
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from nullclass.core.errors import UserError

Pixels = npt.NDArray[np.float32]
"""``(28, 28)`` in [0,1], white strokes on black."""

SIDE = 28
NUM_EACH = 10
"""Test images per digit in the package."""

BOX = 20
"""Side of the square into which MNIST scales a digit before it is centred by mass."""

LEVELS = 15
"""Grey levels of a drawing in a link, beside black."""


@cache
def _sheet() -> Pixels:
    """The first ten MNIST test images of each digit, one row per digit."""
    with Image.open(Path(__file__).parent / "digits.png") as sheet:
        return np.asarray(sheet, dtype=np.float32) / np.float32(255)


def digit_image(digit: int, number: int) -> Pixels:
    """Return a test image of a digit, by its number from 0."""
    row, column = SIDE * digit, SIDE * number
    return _sheet()[row : row + SIDE, column : column + SIDE]


def as_digit(strokes: npt.NDArray[np.float32]) -> Pixels | None:
    """Return a drawing as MNIST would have it: scaled into a square, centred by its mass.

    Args:
        strokes: ``(H, W)`` in [0,1], 1 where something is drawn.

    Returns:
        None if nothing is drawn.
    """
    rows, columns = (np.flatnonzero((strokes > 0.1).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    part = strokes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(part.shape)
    height, width = (max(1, round(scale * side)) for side in part.shape)
    picture = Image.fromarray((255 * part).round().astype(np.uint8))
    small = np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float32) / 255
    if not small.any():  # too faint and sparse for this size
        return None
    weights = small / small.sum()
    middle_row = float((weights.sum(axis=1) * np.arange(height)).sum())
    middle_column = float((weights.sum(axis=0) * np.arange(width)).sum())
    top = min(max(round((SIDE - 1) / 2 - middle_row), 0), SIDE - height)
    left = min(max(round((SIDE - 1) / 2 - middle_column), 0), SIDE - width)
    digit = np.zeros((SIDE, SIDE), np.float32)
    digit[top : top + height, left : left + width] = np.minimum(small, 1)
    return to_levels(digit)


def to_levels(digit: Pixels) -> Pixels:
    """Return a drawing in the grey levels of a link, so that the link gives the same answers."""
    return (np.round(digit * LEVELS) / LEVELS).astype(np.float32)


def to_text(digit: Pixels) -> str:
    """Return a drawing as text for a link."""
    levels = np.round(digit * LEVELS).astype(np.uint8).ravel()
    packed = (levels[::2] * 16 + levels[1::2]).tobytes()
    return base64.urlsafe_b64encode(zlib.compress(packed, 9)).decode().rstrip("=")


def from_text(text: str) -> Pixels:
    """Return the drawing of a link.

    Raises:
        UserError: If it is none.
    """
    num_bytes = SIDE * SIDE // 2
    try:
        if len(text) > 2 * num_bytes:
            raise ValueError("too long")
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        packed = np.frombuffer(zlib.decompressobj().decompress(content, num_bytes), np.uint8)
        if len(packed) != num_bytes:
            raise ValueError("too short")
    except (ValueError, binascii.Error, zlib.error):
        raise UserError("the drawing in the link is damaged: copy the whole link") from None
    levels = np.stack([packed // 16, packed % 16], axis=1).reshape(SIDE, SIDE)
    return (levels / LEVELS).astype(np.float32)
