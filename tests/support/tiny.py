"""A tiny dataset on disk that can be learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from idx_files import write_dataset

from nullclass.data import FILE_NAMES, LabelledImages

NUM_CLASSES = 3


def learnable_arrays(num_train: int = 160, num_test: int = 40) -> dict[str, np.ndarray]:
    """8x8 noise with a bright band whose place is the class."""
    rng = np.random.default_rng(0)
    arrays = []
    for count in (num_train, num_test):
        labels = (np.arange(count) % NUM_CLASSES).astype(np.uint8)
        images = rng.integers(0, 110, (count, 8, 8), dtype=np.uint8)
        for index, label in enumerate(labels):
            images[index, 2 * label : 2 * label + 2] += 130
        arrays += [images, labels]
    return dict(zip(FILE_NAMES, arrays, strict=True))


def learnable_dataset(folder: Path) -> Path:
    """Write it as four IDX files."""
    return write_dataset(folder, learnable_arrays())


def as_floats(data: LabelledImages) -> LabelledImages:
    """The same images as floats in memory."""
    return LabelledImages(*data.batch(slice(None)), data.num_classes)
