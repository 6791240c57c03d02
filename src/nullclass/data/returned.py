"""Images and labels that a function of the user returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from nullclass.core.errors import UserError, describe_error
from nullclass.core.imports import call_function
from nullclass.data.array_files import Part
from nullclass.data.arrays import LabelledImages


def call(name: str) -> tuple[Part | None, Part, int]:
    """Call ``PACKAGE.MODULE:FUNCTION``; return training images, if there are any, and test ones.

    The function takes no arguments. It returns test images, as a pair ``(images, labels)`` of
    tensors or arrays, as a torch ``Dataset`` or as :class:`nullclass.data.LabelledImages`; or a
    pair ``(train, test)`` of such values, as ``load_data`` of Keras does.

    Returns:
        Training and test images, and K as far as ``LabelledImages`` say it, else 0.

    Raises:
        UserError: If it cannot be imported, fails, or returns something else.
    """
    value = call_function(name)
    both = (_part(each) for each in value) if _is_pair(value) else ()
    match tuple(part for part in both if part is not None):
        case (train, test):
            return train, test, max(map(_num_classes, value))
    part = _part(value)
    if part is None:
        found = type(value).__name__
        raise UserError(
            f"{name} returns a {found}: let it return a pair (images, labels) of tensors, a torch "
            "Dataset of such pairs, or a pair (train, test) of these"
        )
    return None, part, _num_classes(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _num_classes(value: Any) -> int:
    return value.num_classes if isinstance(value, LabelledImages) else 0


def _part(value: Any) -> Part | None:
    """Return images and labels, or None if it is something else."""
    if isinstance(value, LabelledImages):
        return value.images, value.labels
    if isinstance(value, TorchDataset):
        return _read(value)
    if not _is_pair(value):
        return None
    try:
        images, labels = (torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in value)
    except (TypeError, ValueError):  # arrays of objects, or of types that torch does not have
        return None
    return (images, labels) if isinstance(images, Tensor) and isinstance(labels, Tensor) else None


def _read(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return all images and labels of a torch ``Dataset``."""
    kind = type(dataset).__name__
    try:
        first = torch.as_tensor(dataset[0][0])
        images = first.new_empty((len(dataset), *first.shape))  # in memory once, of its own type
        labels = torch.empty(len(dataset), dtype=torch.int64)
        for index in range(len(dataset)):
            image, label = dataset[index]
            image = torch.as_tensor(image).detach()
            if (image.shape, image.dtype) != (first.shape, first.dtype):
                raise ValueError(
                    f"image {index} is {image.dtype} of shape {tuple(image.shape)}, and image 0 "
                    f"{first.dtype} of shape {tuple(first.shape)}"
                )
            if int(label) != label:
                raise ValueError(f"the label {label} of image {index} is no whole number")
            images[index], labels[index] = image, int(label)
        return images, labels
    except Exception as error:  # the user's code
        raise UserError(
            f"the images of the {kind} cannot be read ({describe_error(error)}): let it "
            "return pairs of a tensor (C, H, W), all of one shape and type, and a whole number"
        ) from error
