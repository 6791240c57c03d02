"""A dataset: training, held-out and test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from nullclass.core.checks import check_count
from nullclass.core.errors import UserError
from nullclass.data.arrays import LabelledImages

PerChannel = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test images with pixels in [0,1]."""

    name: str
    class_names: tuple[str, ...]
    """K names, in the order of the labels."""
    train: LabelledImages | None
    """The training images without ``validation``, in their order; None if there are none."""
    validation: LabelledImages | None
    """Held-out training images, if any."""
    test: LabelledImages
    checksum: str
    """SHA-256 of all images and labels. Of IDX files, of their four SHA-256: the hexadecimal
    digests of the uncompressed files in the order of ``FILE_NAMES``, joined by newlines."""
    source: str
    """Where the images came from, in a sentence."""
    published: tuple[PerChannel, PerChannel] | None = None
    """Published mean and standard deviation per channel."""

    @property
    def num_classes(self) -> int:
        """K, without null."""
        return len(self.class_names)

    @property
    def names_its_classes(self) -> bool:
        """Whether K is known because the classes have names, rather than from the labels."""
        return self.class_names != tuple(map(str, range(self.num_classes)))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width

    def training_images(self) -> LabelledImages:
        """Return the training images.

        Raises:
            UserError: If there are none.
        """
        if self.train is None:
            raise UserError(f"{self.name} has test images only: give data with training images")
        return self.train

    @cached_property
    def pixel_statistics(self) -> tuple[PerChannel, PerChannel]:
        """Mean and standard deviation of each channel, published or of all training images.

        Raises:
            UserError: If there are no training images, or all pixels of a channel are alike.
        """
        if self.published is not None:
            return self.published
        parts = [self.training_images(), self.validation]
        mean, std = pixel_statistics([part for part in parts if part is not None])
        if 0 in std:
            channel = "" if len(std) == 1 else f" of channel {std.index(0)}"
            raise UserError(f"all pixels{channel} in {self.name} are alike: use other images")
        return mean, std

    @property
    def mean(self) -> PerChannel:
        """Mean pixel of each channel."""
        return self.pixel_statistics[0]

    @property
    def std(self) -> PerChannel:
        """Standard deviation of the pixels of each channel, above 0."""
        return self.pixel_statistics[1]

    def hold_out(self, num_images: int) -> Dataset:
        """Return the dataset with training images held out, chosen by a fixed random permutation.

        A model that was trained on the rest is so calibrated on images that it never saw.

        Args:
            num_images: How many of the N training images, 0 … N - 1.

        Raises:
            UserError: If ``num_images`` is out of range, or images are held out already.
        """
        if num_images == 0:
            return self
        train = self.training_images()
        if self.validation is not None:
            raise UserError(f"images of {self.name} are held out already")
        what = f"validation, held out of {len(train)} training images,"
        num_images = check_count(what, num_images, 0, len(train) - 1)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        held_out, rest = order[:num_images].sort().values, order[num_images:].sort().values
        return replace(self, train=train.subset(rest), validation=train.subset(held_out))

    def describe(self) -> dict[str, Any]:
        """Return name, checksum, source and number of test images, as JSON values."""
        return {
            "name": self.name,
            "checksum": self.checksum,
            "source": self.source,
            "num_test_images": len(self.test),
        }


def pixel_statistics(parts: Sequence[LabelledImages]) -> tuple[PerChannel, PerChannel]:
    """Return mean and standard deviation of the pixels of each channel, in [0,1] units.

    Of bytes, they are computed from the counts of the 256 values, in integers, so that the result
    does not depend on the order of the images, and alike pixels have a deviation of exactly 0.
    """
    channels = parts[0].images.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    sums = torch.zeros(3, channels, dtype=torch.float64)
    for part in parts:
        for indices in torch.arange(len(part)).split(1024):
            images = part.images[indices]
            for channel, pixels in enumerate(images.transpose(0, 1).flatten(1)):
                if images.dtype == torch.uint8:
                    counts[channel] += torch.bincount(pixels, minlength=256)
                else:
                    values = pixels.double()
                    some = torch.tensor(float(len(values)), dtype=torch.float64)
                    sums[:, channel] += torch.stack([some, values.sum(), values.square().sum()])
    if counts.any():
        pairs = [_from_counts(each.tolist()) for each in counts]
    else:
        pairs = [_from_sums(*each.tolist()) for each in sums.T]
    mean, std = zip(*pairs, strict=True)
    return mean, std


def _from_counts(counts: list[int]) -> tuple[float, float]:
    total = sum(counts)
    first = sum(value * number for value, number in enumerate(counts))
    second = sum(value * value * number for value, number in enumerate(counts))
    variance = (second * total - first * first) / (total * total)
    return first / total / 255, math.sqrt(variance) / 255


def _from_sums(total: float, first: float, second: float) -> tuple[float, float]:
    mean = first / total
    return mean, math.sqrt(max(0.0, second / total - mean * mean))
