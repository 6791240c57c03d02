"""Image folders for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def pixels_of(number: int, shape: tuple[int, ...] = (6, 5, 3)) -> np.ndarray:
    """Pixels ``(H, W, 3)`` or ``(H, W)`` of the image with a number."""
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def write_images(
    folder: Path,
    num_per_class: int = 2,
    *,
    classes: Sequence[str] = CLASSES,
    shape: tuple[int, ...] = (6, 5, 3),
    first: int = 0,
) -> Path:
    """Write PNG files; the images are numbered from ``first``, class by class."""
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(num_per_class):
            pixels = pixels_of(first + num_per_class * index + number, shape)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    return folder


def write_image_folder(folder: Path, **settings: object) -> Path:
    """Write training images, 4 per class, and test images, 2 per class, numbered from 100."""
    write_images(folder / "train", 4, **settings)  # type: ignore[arg-type]
    write_images(folder / "test", 2, first=100, **settings)  # type: ignore[arg-type]
    return folder
