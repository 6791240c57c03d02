"""Loads datasets by name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nullclass.core.checks import check_count, check_seed
from nullclass.core.errors import UserError
from nullclass.data.arrays import LabelledImages
from nullclass.data.fetching import Progress, fetch, print_line
from nullclass.data.idx import Bytes, content_digest, read_pair
from nullclass.data.known import (
    DATASETS,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
)
from nullclass.data.ramps import CLASS_NAMES as RAMP_NAMES
from nullclass.data.ramps import ramps

RAMPS = "ramps"
"""The toy dataset, which needs no files."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test images with pixels in [0,1]."""

    name: str
    class_names: tuple[str, ...]
    """K names, in the order of the labels."""
    mean: float
    """Mean pixel."""
    std: float
    """Standard deviation of the pixels, above 0."""
    train: LabelledImages
    """The training file without ``validation``, in its order."""
    validation: LabelledImages | None
    """Held-out images of the training file, if any."""
    test: LabelledImages
    checksum: str
    """SHA-256 of the SHA-256 of the four files, by their uncompressed content: the four hex digests
    in the order of ``FILE_NAMES``, joined by newlines."""
    source: str
    """Where the files came from, in a sentence."""

    @property
    def num_classes(self) -> int:
        """K, without null."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def describe(self) -> dict[str, Any]:
        """Return name, checksum, source and number of test images, as JSON values."""
        return {
            "name": self.name,
            "checksum": self.checksum,
            "source": self.source,
            "num_test_images": len(self.test),
        }


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    validation: int = 5000,
    seed: int = 0,
    progress: Progress = print_line,
) -> Dataset:
    """Load a dataset by its name.

    Args:
        name: ``"mnist"``, ``"fashion-mnist"``, ``"ramps"`` (generated), or ``"idx"`` for any four
            IDX files.
        data_dir: Folder with the files; needed for ``"idx"``. Without it the files come from the
            cache, which is filled first if needed (:func:`nullclass.data.fetch`).
        validation: Number of training images to hold out.
        seed: Seed of the choice of held-out images.
        progress: Receives one line whenever there is something to wait for.

    Returns:
        The dataset. For ``"idx"``, K is the largest label + 1. Mean and standard deviation are the
        published ones, or those of the whole training file, for every split.

    Raises:
        UserError: If the files cannot be found, a file is bad, the files do not fit together, or
            ``validation`` leaves nothing to train on.
    """
    if name == RAMPS:
        if data_dir is not None:
            raise UserError(f"the dataset {RAMPS} is generated, not read: give no data_dir")
        everything, test, checksum = ramps()
        names, mean, std = RAMP_NAMES, 0.0, 1.0
        source = "ramps of three pixels, drawn from a fixed seed"
    else:
        paths, source = fetch(name, data_dir, progress)
        known = DATASETS.get(name)
        everything, test, checksum = _read(paths, known.class_names if known else None)
        names = known.class_names if known else tuple(map(str, range(test.num_classes)))
        mean, std = pixel_statistics(everything.images)
        if std == 0:
            raise UserError(f"all pixels in {paths[TRAIN_IMAGES]} are alike: use other images")
        if known is not None and known.pixel_statistics is not None:
            mean, std = known.pixel_statistics
    train, held_out = split(everything, validation, seed)
    return Dataset(name, names, mean, std, train, held_out, test, checksum, source)


def _read(
    paths: Mapping[str, Path], class_names: tuple[str, ...] | None
) -> tuple[LabelledImages, LabelledImages, str]:
    """Return all training images, the test images, and the checksum of both."""
    arrays = images, labels, test_images, test_labels = (
        *read_pair(paths[TRAIN_IMAGES], paths[TRAIN_LABELS]),
        *read_pair(paths[TEST_IMAGES], paths[TEST_LABELS]),
    )
    if images.shape[1:] != test_images.shape[1:]:
        sizes = ["x".join(map(str, array.shape[1:])) for array in (images, test_images)]
        raise UserError(
            f"training images are {sizes[0]} but test images {sizes[1]} in "
            f"{paths[TRAIN_IMAGES].parent}: use four files of the same dataset"
        )
    num_classes = int(max(labels.max(), test_labels.max())) + 1
    if class_names is not None:
        num_classes = len(class_names)
    if num_classes < 2:
        raise UserError(f"all labels in {paths[TRAIN_LABELS]} are 0: give at least two classes")

    def labelled(images: Bytes, labels: Bytes) -> LabelledImages:
        return LabelledImages(
            torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long(), num_classes
        )

    checksum = _checksum(arrays)
    return labelled(images, labels), labelled(test_images, test_labels), checksum


def split(
    data: LabelledImages, num_validation: int, seed: int
) -> tuple[LabelledImages, LabelledImages | None]:
    """Hold out images chosen by a random permutation.

    Args:
        data: N images to split.
        num_validation: How many to hold out, 0 … N - 1.
        seed: Seed of the permutation.

    Returns:
        The rest and the held-out images (``None`` if 0), each in the order of ``data``.

    Raises:
        UserError: If ``num_validation`` is out of range.
    """
    what = f"validation, held out of {len(data)} training images,"
    num_validation = check_count(what, num_validation, 0, len(data) - 1)
    check_seed(seed)
    if num_validation == 0:
        return data, None
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    held_out, rest = order[:num_validation].sort().values, order[num_validation:].sort().values
    return data.subset(rest), data.subset(held_out)


def pixel_statistics(images: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of all pixels of uint8 images, in [0,1] units.

    Computed from the counts of the 256 values, without a float copy of the images.
    """
    counts = torch.zeros(256, dtype=torch.int64)
    for start in range(0, len(images), 4096):  # in parts, since bincount copies them to int64
        counts += torch.bincount(images[start : start + 4096].flatten(), minlength=256)
    count = counts.tolist()
    total = sum(count)
    first = sum(value * number for value, number in enumerate(count))
    second = sum(value * value * number for value, number in enumerate(count))
    # Integers up to here, so that constant images have a variance of exactly 0.
    variance = (second * total - first * first) / (total * total)
    return first / total / 255, math.sqrt(variance) / 255


def _checksum(arrays: Iterable[Bytes]) -> str:
    digests = "\n".join(map(content_digest, arrays))
    return hashlib.sha256(digests.encode()).hexdigest()
