"""Labelled images, in memory or on the disk.

Bytes are stored as bytes, in a quarter of the memory, and leave :meth:`LabelledImages.batch` as
``float32 / 255``.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nullclass.core.checks import check_count
from nullclass.core.devices import images_at_once
from nullclass.core.errors import UserError
from nullclass.core.outcomes import NULL_LABEL
from nullclass.data.streamed import StreamedImages

Indices: TypeAlias = Tensor | Sequence[int] | slice

ROUNDING = 1e-5
"""How far outside [0,1] a pixel may be and still count as rounding (undone standardisation)."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their labels.

    Raises:
        UserError: If there are no images, the lengths differ, a pixel is outside [0,1] or NaN, all
            bytes are 0 or 1, or a label is neither a class nor null.
    """

    images: Tensor | StreamedImages
    """``(N, C, H, W)``: uint8 in 0 … 255, or float32 in [0,1]."""
    labels: Tensor
    """``(N,)`` int64 in 0 … K - 1, or -1 for null."""
    num_classes: int = 0
    """K, the number of real classes; 0 for the largest label + 1."""

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor):
            _check_images(self.images)
        elif not isinstance(self.images, StreamedImages):
            raise UserError(_no_tensor("images", self.images))
        elif not len(self.images):
            raise UserError("there are no images: pass at least one")
        if not isinstance(self.labels, Tensor):
            raise UserError(_no_tensor("labels", self.labels))
        check_count("num_classes", self.num_classes, 0)
        if self.num_classes == 0 and self.labels.dtype == torch.int64 and len(self.labels):
            object.__setattr__(self, "num_classes", int(self.labels.max()) + 1)
        _check_labels(self.labels, len(self.images), self.num_classes)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Return images and labels, ready for a model.

        Args:
            indices: Positions in 0 … N - 1: a slice, a sequence or an int64 tensor.

        Returns:
            ``(B, C, H, W)`` float32 in [0,1] and ``(B,)`` int64; copies, except for a slice of
            float images. Streamed images are read from the disk here.
        """
        index = _index(indices)
        return to_float(self.images[index]), self.labels[index]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images and labels in order, as many as are moved to a device at once."""
        for indices in torch.arange(len(self)).split(images_at_once(self.images.shape)):
            yield self.batch(indices)

    def subset(self, indices: Indices) -> LabelledImages:
        """Return the images at some positions, in their order, with the same K.

        Raises:
            UserError: If there are no positions.
        """
        index = _index(indices)
        images = self.images
        some = images[index] if isinstance(images, Tensor) else images.subset(index)
        return self._with(some, self.labels[index])

    def first(self, n: int) -> LabelledImages:
        """Return the first ``n`` images.

        Raises:
            UserError: If ``n`` is less than 1 or more than there are.
        """
        if not 1 <= n <= len(self):
            raise UserError(f"there are no {n} images to take: choose 1 to {len(self)}")
        return self.subset(slice(0, n))

    def up_to(self, n: int) -> LabelledImages:
        """Return the first ``n`` images, or all if there are fewer.

        Raises:
            UserError: If ``n`` is less than 1.
        """
        return self.first(min(n, len(self)))

    def sha256(self) -> str:
        """Return a checksum of images and labels; no streamed image is read."""
        digest = hashlib.sha256()
        for values in (self.images, self.labels):
            digest.update(f"{values.dtype} {tuple(values.shape)}\n".encode())
            if isinstance(values, Tensor):
                digest.update(values.detach().cpu().contiguous().numpy().data)
            else:
                digest.update(values.sha256().encode())
        return digest.hexdigest()

    def _with(self, images: Tensor | StreamedImages, labels: Tensor) -> LabelledImages:
        """Return a copy with some of the images, whose values have been checked."""
        if not len(images):
            raise UserError(f"there are no images (shape {tuple(images.shape)}): pass at least one")
        part = copy.copy(self)
        object.__setattr__(part, "images", images)
        object.__setattr__(part, "labels", labels)
        return part


def tensors_or_loader(data: Any, num_classes: int = 0) -> LabelledImages:
    """Return labelled images from a pair of tensors or a loader.

    Args:
        data: ``LabelledImages``; a pair ``(images, labels)`` of tensors; or a ``DataLoader`` or
            other finite iterable of such pairs. Images are ``(N, C, H, W)`` or ``(N, H, W)``:
            integers in 0 … 255 (stored as bytes), or floats in [0,1]. Labels are integers.
        num_classes: K; 0 for that of the data (the largest label + 1).

    Returns:
        All images, on their device.

    Raises:
        UserError: If ``data`` is none of these, or its values are out of range.
    """
    if isinstance(data, LabelledImages):
        if num_classes in (0, data.num_classes):
            return data
        return LabelledImages(data.images, data.labels, num_classes)
    if is_meant_as_pair(data):
        data = [data]
    elif not isinstance(data, Iterable) or isinstance(data, str | bytes | dict | Tensor):
        raise UserError(_not_data(data))
    images, labels = [], []
    for batch in data:
        if not _is_pair(batch) or batch[1].ndim == 0:
            raise UserError(_not_data(batch))
        if len(batch[0]) != len(batch[1]):  # checked per batch: two errors could cancel out
            raise UserError(_lengths_differ(len(batch[0]), len(batch[1])))
        images.append(stored_images(batch[0].detach()))
        labels.append(checked_labels(batch[1]))
    if not images:
        raise UserError("the loader gave no batches: give it at least one image")
    if len({(part.shape[1:], part.dtype) for part in images}) > 1:
        raise UserError(
            "the batches differ in the shape or type of their images: make all images alike"
        )
    return LabelledImages(torch.cat(images), torch.cat(labels), num_classes)


def checked_images(images: Tensor) -> Tensor:
    """Return a batch of images, ready for a model.

    Args:
        images: ``(N, C, H, W)`` floats in [0,1]; N may be 0.

    Returns:
        Float32, or float64 as they are; detached, and without rounding outside [0,1].

    Raises:
        UserError: If they are anything else.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        found = type(images).__name__
        if isinstance(images, Tensor):
            found = f"{tuple(images.shape)} of {images.dtype}"
        raise UserError(
            f"images must be a floating-point tensor (N, C, H, W) in [0,1], not {found}: convert "
            "arrays by torch.from_numpy, and divide bytes by 255"
        )
    images = images.detach()
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    if images.numel():
        images = clamp_rounding(images)
        check_pixels(images)
    return images


def checked_labels(labels: Tensor) -> Tensor:
    """Return labels as int64.

    Raises:
        UserError: If they are not a tensor of integers.
    """
    if not isinstance(labels, Tensor):
        raise UserError(_no_tensor("labels", labels))
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"labels are {labels.dtype}: pass integers, one for each image")
    return labels.to(torch.int64)


def clamp_rounding(images: Tensor) -> Tensor:
    """Return float images in [0,1] if they exceed it by no more than :data:`ROUNDING`."""
    low, high = _range(images)
    is_rounding = low >= -ROUNDING and high <= 1 + ROUNDING and (low < 0 or high > 1)
    return images.clamp(0, 1) if is_rounding else images


def check_pixels(images: Tensor) -> None:
    """Raise UserError unless all values of float images are in [0,1]."""
    low, high = _range(images)
    if not (math.isfinite(low) and math.isfinite(high)):  # NaN anywhere makes both NaN
        raise UserError("images have pixels that are NaN or infinite: remove or replace them")
    if low < 0 or high > 1:
        raise UserError(
            f"images must be in [0,1], but range from {low:.4g} to {high:.4g}: divide by 255, or "
            "pass unstandardised images and let the model standardise them (mean and std of "
            "Classifier or evaluate, or --mean and --std), because eps is in pixel units"
        )


def is_channel_last(shape: Sequence[int]) -> bool:
    """Whether images of this shape are ``(N, H, W, C)``: grey or RGB at the end, not in front.

    Raises:
        UserError: If they have four channels at the end, as RGBA.
    """
    _, first, _, last = shape
    if first <= 4 or last not in (1, 3, 4):
        return False
    if last == 4:
        raise UserError(
            f"images have shape {tuple(shape)}, which looks like RGBA: put them on a background, "
            "and drop the fourth channel"
        )
    return True


def _is_pair(data: Any) -> bool:
    return (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(isinstance(part, Tensor) for part in data)
    )


def is_meant_as_pair(data: Any) -> bool:
    """Whether it is a pair, of tensors or not, and no list of two batches."""
    return (
        isinstance(data, tuple | list)
        and len(data) == 2
        and not isinstance(data[0], tuple | list | dict)
    )


def _not_data(data: Any) -> str:
    expected = "expected a pair (images, labels) of tensors or a loader of such pairs, got "
    if isinstance(data, Mapping):
        return (
            f"{expected}a dictionary with the keys {', '.join(map(str, data))}: make pairs of its "
            "tensors of images and labels, for example in the collate_fn of the DataLoader"
        )
    if is_meant_as_pair(data):
        name, part = next(
            (name, part)
            for name, part in zip(("images", "labels"), data, strict=True)
            if not isinstance(part, Tensor) or part.ndim == 0
        )
        found = f"tensor without dimensions ({part})" if isinstance(part, Tensor) else ""
        return (
            f"{expected}{name} that are a {found or type(part).__name__}: convert them by "
            f"torch.as_tensor({name})"
        )
    return f"{expected}{type(data).__name__}: wrap a torch Dataset in a DataLoader"


def _no_tensor(name: str, value: object) -> str:
    return f"{name} must be a tensor, not {type(value).__name__}: convert them by torch.as_tensor"


def _lengths_differ(num_images: int, num_labels: int) -> str:
    return f"there are {num_images} images but {num_labels} labels: pass one label per image"


def stored_images(images: Tensor) -> Tensor:
    """Return images as bytes or float32, with a channel dimension, which comes first."""
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim == 4 and is_channel_last(images.shape):
        images = images.permute(0, 3, 1, 2)
    if images.dtype == torch.uint8 or images.numel() == 0:
        return images
    if images.is_floating_point():
        return clamp_rounding(images.float())
    if images.dtype == torch.bool or images.is_complex():
        raise UserError(f"images are {images.dtype}: pass integers in 0 … 255 or floats in [0, 1]")
    if images.dtype in (torch.uint16, torch.uint32, torch.uint64):
        images = images.to(torch.int64)  # torch has no minimum of these types
    low, high = _range(images)
    if low < 0 or high > 255:
        raise UserError(
            f"images of integers run from {low:g} to {high:g}: pass 0 … 255, or floats in [0, 1]"
        )
    return images.to(torch.uint8)


def _check_images(images: Tensor) -> None:
    if images.ndim != 4:
        raise UserError(f"images have shape {tuple(images.shape)}: pass (N, C, H, W)")
    if images.numel() == 0:
        raise UserError(f"there are no images (shape {tuple(images.shape)}): pass at least one")
    if images.dtype == torch.float32:
        check_pixels(images)
    elif images.dtype != torch.uint8:
        raise UserError(f"images are {images.dtype}: pass uint8 in 0 … 255 or float32 in [0, 1]")
    elif images.numel() >= 64 and images.max() == 1:
        raise UserError(
            "images are bytes of 0 and 1, which would be divided by 255: if 1 is white, store 255 "
            "for it, or pass floats (images.float())"
        )


def _check_labels(labels: Tensor, num_images: int, num_classes: int) -> None:
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise UserError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: pass int64 of shape (N,)"
        )
    if len(labels) != num_images:
        raise UserError(_lengths_differ(num_images, len(labels)))
    low, high = _range(labels)
    if num_classes < 1:
        raise UserError(
            f"all labels are {NULL_LABEL}, which is null: label the images with real classes, or "
            "give num_classes for null images alone"
        )
    if low < NULL_LABEL or high >= num_classes:
        raise UserError(
            f"labels run from {low:g} to {high:g}: use 0 … {num_classes - 1} for the "
            f"{num_classes} classes, and {NULL_LABEL} for null only"
        )


def _range(values: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(values)
    return float(low), float(high)


def _index(indices: Indices) -> Tensor | slice:
    if isinstance(indices, Tensor | slice):
        return indices
    return torch.tensor(indices, dtype=torch.int64)


def to_float(images: Tensor) -> Tensor:
    """Return stored images as float32 in [0,1]; floats are not copied."""
    # Division, as in torchvision's ToTensor: byte b is exactly the float32 nearest to b / 255.
    return images if images.dtype == torch.float32 else images.to(torch.float32).div_(255)
