"""A name becomes a dataset: files found or fetched, read, checked, split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.data.arrays import LabelledImages
from nullclass.data.fetching import DATASETS, Progress, fetch, hex_digest, say
from nullclass.data.idx import Bytes, read_pair
from nullclass.data.known import FILE_NAMES, TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS
from nullclass.data.ramps import CLASS_NAMES as RAMP_NAMES
from nullclass.data.ramps import ramps

RAMPS = "ramps"
"""The toy dataset that needs no files."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset ready for use, pixels in [0,1]."""

    name: str
    num_classes: int
    """K, without null."""
    class_names: tuple[str, ...]
    """K names, in the order of the labels."""
    mean: float
    """Mean pixel, for the model that standardises itself."""
    std: float
    """Standard deviation of the pixels, more than 0."""
    train: LabelledImages
    """What is left of the training files without `validation`, in the order of the files."""
    validation: LabelledImages | None
    """Images held out of the training files, or None if none were."""
    test: LabelledImages
    """The test files, untouched."""
    checksum: str
    """One SHA-256 for all four files, in hex (see :func:`dataset_checksum`)."""
    source: str
    """Where the files came from, in a sentence."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def describe(self) -> dict[str, Any]:
        """Name, checksum, source and number of test images, as JSON values."""
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
    progress: Progress = say,
) -> Dataset:
    """Load a dataset by its name.

    Args:
        name: ``"mnist"``, ``"fashion-mnist"``, ``"idx"`` for any four IDX files, or ``"ramps"``,
            which is made up on the spot.
        data_dir: The folder to take the files from; needed for ``"idx"``. Without it the files
            come from the cache, which is filled first if need be (:func:`fetch`).
        validation: How many training images to hold out; 0 holds out none.
        seed: Seed of the permutation that draws them. The same seed, the same images.
        progress: Called with one line whenever there is something to wait for.

    Returns:
        The dataset. Named ones bring their own K, class names and, where published, pixel
        statistics. Otherwise K is the largest label + 1, and the statistics are those of all
        images in the training file, so that they do not depend on the split.

    Raises:
        UserError: If :func:`fetch` cannot find the files, a file is bad, the files do not fit
            each other, or `validation` leaves nothing to train on.
    """
    if name == RAMPS:
        return _ramps(validation, seed)
    paths, source = fetch(name, data_dir, progress)
    train_images, train_labels = read_pair(paths[TRAIN_IMAGES], paths[TRAIN_LABELS])
    test_images, test_labels = read_pair(paths[TEST_IMAGES], paths[TEST_LABELS])
    if train_images.shape[1:] != test_images.shape[1:]:
        raise UserError(
            f"training images are {_size(train_images)} but test images {_size(test_images)} in "
            f"{paths[TRAIN_IMAGES].parent}: put files together that belong together"
        )
    known = DATASETS.get(name)
    if known is not None:
        num_classes, class_names = len(known.class_names), known.class_names
    else:
        num_classes = int(max(train_labels.max(), test_labels.max())) + 1
        class_names = tuple(str(label) for label in range(num_classes))
    if num_classes < 2:
        raise UserError(f"all labels in {paths[TRAIN_LABELS]} are 0: give at least two classes")

    everything = _labelled(train_images, train_labels, num_classes)
    mean, std = pixel_statistics(everything.images)
    if std == 0:
        raise UserError(f"all pixels in {paths[TRAIN_IMAGES]} are alike: name other images")
    if known is not None and known.pixel_statistics is not None:
        mean, std = known.pixel_statistics
    train, held_out = split(everything, validation, seed)
    return Dataset(
        name=name,
        num_classes=num_classes,
        class_names=class_names,
        mean=mean,
        std=std,
        train=train,
        validation=held_out,
        test=_labelled(test_images, test_labels, num_classes),
        checksum=dataset_checksum(paths),
        source=source,
    )


def _ramps(validation: int, seed: int) -> Dataset:
    everything, test, checksum = ramps()
    train, held_out = split(everything, validation, seed)
    return Dataset(
        name=RAMPS,
        num_classes=len(RAMP_NAMES),
        class_names=RAMP_NAMES,
        mean=0.0,
        std=1.0,
        train=train,
        validation=held_out,
        test=test,
        checksum=checksum,
        source="ramps of three pixels, drawn from a fixed seed",
    )


def split(
    data: LabelledImages, num_validation: int, seed: int
) -> tuple[LabelledImages, LabelledImages | None]:
    """Hold out some images, drawn by one permutation that the seed fixes.

    Args:
        data: The images to split.
        num_validation: How many to hold out, 0 … N - 1.
        seed: Seed of the permutation.

    Returns:
        The rest and the held-out images (None if none), each in the order of `data`.

    Raises:
        UserError: If `num_validation` is negative or leaves nothing.
    """
    if not 0 <= num_validation < len(data):
        raise UserError(
            f"cannot hold out {num_validation} of {len(data)} training images: "
            f"set validation to 0 … {len(data) - 1}"
        )
    if num_validation == 0:
        return data, None
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    held_out, rest = order[:num_validation].sort().values, order[num_validation:].sort().values
    return data.subset(rest), data.subset(held_out)


def pixel_statistics(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all pixels of uint8 images, in [0,1] units.

    Exact, from the counts of the 256 values: no float copy of the images is made.
    """
    counts = torch.zeros(256, dtype=torch.int64)
    for start in range(0, len(images), 4096):  # in parts, for bincount copies them to int64
        counts += torch.bincount(images[start : start + 4096].flatten(), minlength=256)
    count = counts.tolist()
    total = sum(count)
    first = sum(value * number for value, number in enumerate(count))
    second = sum(value * value * number for value, number in enumerate(count))
    # In integers up to here, so that images all alike have a variance of exactly 0.
    variance = (second * total - first * first) / (total * total)
    return first / total / 255, math.sqrt(variance) / 255


def dataset_checksum(paths: Mapping[str, Path]) -> str:
    """SHA-256 of the four files' SHA-256, so that a record can say which data it is about.

    Each file counts by its uncompressed contents; the four hex digests are joined by newlines
    in the order of ``FILE_NAMES``.

    Raises:
        UserError: If a file cannot be read.
    """
    digests = "\n".join(hex_digest(paths[name], "sha256") for name in FILE_NAMES)
    return hashlib.sha256(digests.encode()).hexdigest()


def _labelled(images: Bytes, labels: Bytes, num_classes: int) -> LabelledImages:
    return LabelledImages(
        torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long(), num_classes
    )


def _size(images: Bytes) -> str:
    return f"{images.shape[1]}x{images.shape[2]}"
