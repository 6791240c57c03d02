"""Images and labels in ``.npz`` and ``.safetensors`` files.

Test images alone are called ``images`` and ``labels``, or ``x`` and ``y``. Training and test images
are called ``x_train``, ``y_train``, ``x_test``, ``y_test`` (Keras), or ``train_images``,
``train_labels``, ``test_images``, ``test_labels`` (MedMNIST).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.core.paths import check_regular, sha256
from nullclass.core.tensor_files import check_header
from nullclass.data.arrays import is_channel_last
from nullclass.data.idx import MAX_EXPANSION, SMALL, Bytes
from nullclass.data.streamed import IN_MEMORY, Images, StreamedImages

NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
TEST_NAMES = (("images", "labels"), ("x", "y"), NAMES[0][2:], NAMES[1][2:])

Part = tuple[Images, Tensor]
"""Images as they are in the file, and labels."""


def read_npz(path: Path) -> tuple[Part | None, Part]:
    """Read training images, if there are any, and test images into memory.

    Raises:
        UserError: If the file is damaged, holds Python objects, or has no such arrays.
    """
    check_regular(path, "file of images")
    try:
        with zipfile.ZipFile(path) as archive:
            expanded = sum(member.file_size for member in archive.infolist())
        if expanded > max(SMALL, MAX_EXPANSION * os.path.getsize(path)):
            raise UserError(
                f"{path} expands to over {MAX_EXPANSION} times its size: write it again"
            )
        with np.load(path, allow_pickle=False) as arrays:

            def get(name: str) -> Tensor:
                array = arrays[name]
                if not array.flags.writeable or array.dtype.byteorder == ">":
                    array = array.astype(array.dtype.newbyteorder("="))
                return torch.from_numpy(array)

            return _parts(path, arrays.files, get, get)
    except UserError:
        raise
    except Exception as error:  # NumPy raises all kinds for a damaged file
        raise UserError(f"{path} is no .npz file of numbers, or damaged ({error})") from error


def read_safetensors(path: Path) -> tuple[Part | None, Part]:
    """Read training images, if there are any, and test images; many bytes stay on the disk.

    Raises:
        UserError: If the file is damaged, has no such tensors, or more floats than fit into memory.
    """
    check_header(path, "file of images")
    digest = cache(lambda: sha256(path))  # of a large file, which takes a while
    try:
        with safe_open(path, framework="pt") as opened:

            def images(name: str) -> Images:
                stored = opened.get_slice(name)
                shape, is_bytes = stored.get_shape(), stored.get_dtype() == "U8"
                if math.prod(shape) <= IN_MEMORY:
                    return opened.get_tensor(name)  # type: ignore[no-any-return]
                if not is_bytes or len(shape) not in (3, 4):
                    raise UserError(
                        f"{path}: {name} of shape {tuple(shape)} is too large for memory: store "
                        "large sets as bytes (N, C, H, W), which are streamed"
                    )
                return _stream(path, name, shape, digest())

            return _parts(path, opened.keys(), images, opened.get_tensor)
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file, or damaged ({error})") from error


def _parts(
    path: Path,
    names: Iterable[str],
    images: Callable[[str], Images],
    labels: Callable[[str], Tensor],
) -> tuple[Part | None, Part]:
    """Return the parts whose names are in a file."""
    found = set(names)
    for names_of_both in NAMES:
        if found.issuperset(names_of_both):
            x_train, y_train, x_test, y_test = names_of_both
            return (images(x_train), labels(y_train)), (images(x_test), labels(y_test))
    for x, y in TEST_NAMES:
        if {x, y} <= found:
            return None, (images(x), labels(y))
    raise UserError(
        f"{path} holds {', '.join(sorted(found)) or 'nothing'}: name the arrays images and labels, "
        f"or {', '.join(NAMES[0])}"
    )


def _stream(path: Path, name: str, shape: list[int], digest: str) -> StreamedImages:
    """Return the bytes of a tensor as images that are read when they are needed."""
    start = _start(path, name)
    one = shape[1:] if len(shape) == 4 else [1, *shape[1:]]
    is_last = is_channel_last([shape[0], *one])
    size = math.prod(one)

    def read(position: int) -> Bytes:
        # Not mapped: pages of a mapped file count as memory of the process.
        with path.open("rb") as file:
            file.seek(start + position * size)
            image = np.frombuffer(file.read(size), np.uint8)
        if len(image) < size:
            raise UserError(f"{path} is truncated: write it again")
        return image.reshape(one).transpose(2, 0, 1) if is_last else image.reshape(one)

    channels, height, width = (one[2], one[0], one[1]) if is_last else one
    digest = hashlib.sha256(f"{digest} {name}".encode()).hexdigest()
    return StreamedImages(read, (channels, height, width), torch.arange(shape[0]), digest)


def _start(path: Path, name: str) -> int:
    """Return where the data of a tensor start in a safetensors file (its documented format)."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: Mapping[str, dict[str, list[int]]] = json.loads(file.read(length))
    return 8 + length + header[name]["data_offsets"][0]
