"""Reads IDX, the file format of MNIST: a short header, then the bytes of one array.

The header is two zero bytes, a code for the type of the numbers (8 for unsigned bytes, the only
one supported), the number of dimensions, and each dimension as a big-endian 32-bit integer
(Y. LeCun, "The MNIST database", section "File formats"). A header is only a promise: memory is
allocated after the counts of images and labels and the size of the content agree with it.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from nullclass.core.errors import UserError
from nullclass.core.paths import open_regular

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

FILE_NAMES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
"""The four files of an IDX dataset, without ``.gz``."""

UNSIGNED_BYTES = 8
CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
_KIND = {1: "label", 3: "image"}

MAX_EXPANSION, SMALL = 200, 1 << 26
"""A compressed file may expand to 64 MiB, or to 200 times its size (MNIST: 5 times)."""

Bytes = npt.NDArray[np.uint8]
Arrays = tuple[Bytes, Bytes, Bytes, Bytes]
"""Training images ``(N, C, H, W)`` and labels ``(N,)``, test images and labels."""


def find_files(folder: Path) -> dict[str, Path]:
    """Return the IDX files of a folder by :data:`FILE_NAMES`, uncompressed ones first.

    Both spellings are known, ``train-images-idx3-ubyte`` and ``train-images.idx3-ubyte``.
    """
    paths = {}
    for name in FILE_NAMES:
        dotted = name.replace("-idx", ".idx")
        for spelling in (name, dotted, f"{name}.gz", f"{dotted}.gz"):
            if os.path.isfile(folder / spelling):  # unlike Path.is_file, False without permission
                paths[name] = folder / spelling
                break
    return paths


def read_files(paths: Mapping[str, Path]) -> Arrays:
    """Read the four files of a dataset.

    Raises:
        UserError: If a file is bad, or the files do not fit together.
    """
    images, labels = read_pair(paths[TRAIN_IMAGES], paths[TRAIN_LABELS])
    test_images, test_labels = read_pair(paths[TEST_IMAGES], paths[TEST_LABELS])
    if images.shape[1:] != test_images.shape[1:]:
        sizes = ["x".join(map(str, array.shape[1:])) for array in (images, test_images)]
        raise UserError(
            f"training images are {sizes[0]} but test images {sizes[1]} in "
            f"{paths[TRAIN_IMAGES].parent}: use four files of the same dataset"
        )
    return images[:, None], labels, test_images[:, None], test_labels


def checksum(arrays: Arrays) -> str:
    """Return the SHA-256 of the SHA-256 of the four uncompressed files that hold the arrays.

    The four hexadecimal digests are in the order of :data:`FILE_NAMES`, joined by newlines. Grey
    images are ``(N, H, W)`` there.
    """
    files = (array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array for array in arrays)
    return hashlib.sha256("\n".join(map(content_digest, files)).encode()).hexdigest()


def read_images(path: Path) -> Bytes:
    """Read an IDX file of grey images, gzipped if its name ends in ``.gz``.

    Returns:
        ``(N, H, W)`` uint8, 0 … 255, N, H and W at least 1.

    Raises:
        UserError: If the file cannot be read or is not exactly such a file.
    """
    return _read(path, _read_shape(path, num_dims=3))


def read_labels(path: Path) -> Bytes:
    """Read an IDX file of labels, gzipped if its name ends in ``.gz``.

    Returns:
        ``(N,)`` uint8, N at least 1.

    Raises:
        UserError: If the file cannot be read or is not exactly such a file.
    """
    return _read(path, _read_shape(path, num_dims=1))


def read_pair(images_path: Path, labels_path: Path) -> tuple[Bytes, Bytes]:
    """Read images and their labels.

    Returns:
        ``(N, H, W)`` and ``(N,)``, both uint8.

    Raises:
        UserError: If either file is bad, or they differ in N.
    """
    images, labels = _read_shape(images_path, num_dims=3), _read_shape(labels_path, num_dims=1)
    if images[0] != labels[0]:
        raise UserError(
            f"{images_path} holds {images[0]} images but {labels_path} holds {labels[0]} "
            f"labels: use two files of the same dataset"
        )
    labels_read = _read(labels_path, labels)  # first: the smaller file confirms N
    return _read(images_path, images), labels_read


def content_digest(array: Bytes) -> str:
    """Return the SHA-256 of the uncompressed IDX file that holds an array."""
    digest = hashlib.sha256(bytes((0, 0, UNSIGNED_BYTES, array.ndim)))
    digest.update(np.array(array.shape, dtype=">u4").tobytes())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def content_chunks(path: Path, limit: int, *, is_gzipped: bool | None = None) -> Iterator[bytes]:
    """Yield the uncompressed content of a file, at most 1 MiB at a time.

    Args:
        path: The file.
        limit: Bytes to yield at most, and one more: content that goes on has another checksum than
            the content wanted.
        is_gzipped: Default: whether its name ends in ``.gz``.

    Raises:
        UserError: If the file cannot be read or its gzip stream is broken.
    """
    with _open(path, is_gzipped) as stream:
        left = limit + 1
        while chunk := stream.read(min(CHUNK, left)):
            left -= len(chunk)
            yield chunk


@contextmanager
def _open(path: Path, is_gzipped: bool | None = None) -> Iterator[BinaryIO]:
    """Open a file to read its uncompressed content; errors inside the block become UserErrors."""
    try:
        with open_regular(path, "IDX file") as raw:
            if path.suffix == ".gz" if is_gzipped is None else is_gzipped:
                if raw.read(2) != GZIP_MAGIC:
                    raise UserError(
                        f"{path} is named .gz but is not gzipped: drop .gz from its name, or "
                        f"fetch it again"
                    )
                raw.seek(0)
                with gzip.open(raw) as stream:
                    yield cast(BinaryIO, stream)
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is a broken gzip file ({error}): fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _read(path: Path, shape: tuple[int, ...]) -> Bytes:
    """Return the array of a file whose header promises a shape."""
    start, expected = 4 + 4 * len(shape), math.prod(shape)
    found = _content_size(path, start + expected) - start
    if found < expected:
        raise UserError(
            f"{path} is truncated: its header promises {expected} bytes of data ({_by(shape)}) "
            f"but only {found} follow; fetch the file again"
        )
    if found > expected:
        raise UserError(
            f"{path} goes on after the {expected} bytes of data ({_by(shape)}) that its header "
            f"promises: it is damaged or not an IDX file; fetch it again"
        )
    array = np.empty(shape, dtype=np.uint8)
    rest = array.data.cast("B")
    with _open(path) as stream:
        stream.read(start)
        while rest and (count := stream.readinto(rest[:CHUNK])):  # type: ignore[attr-defined]
            rest = rest[count:]
    if rest:
        raise UserError(f"{path} changed while it was read: load it again")
    return array


def _content_size(path: Path, expected: int) -> int:
    """Return the size of the uncompressed content, counted up to one byte above what is expected.

    Raises:
        UserError: If the file is gzipped and too small for images of the expected size.
    """
    with _open(path) as stream:
        size = os.fstat(stream.fileno()).st_size
    if path.suffix != ".gz":
        return size
    if expected > max(SMALL, MAX_EXPANSION * size):
        raise UserError(
            f"the header of {path} promises more than {MAX_EXPANSION} times the size of the file, "
            "as no images need: fetch it again, or gunzip it if that is intended"
        )
    return sum(map(len, content_chunks(path, expected)))


def _read_shape(path: Path, num_dims: int) -> tuple[int, ...]:
    """Return the dimensions in a file's header, all of them at least 1."""
    with _open(path) as stream:
        magic = stream.read(4)
        dims = stream.read(4 * num_dims)
    if magic != bytes((0, 0, UNSIGNED_BYTES, num_dims)):
        raise UserError(_wrong_magic(path, magic, num_dims))
    if len(dims) < 4 * num_dims:
        raise UserError(f"{path} ends inside its header: fetch the file again")
    shape = tuple(int(size) for size in np.frombuffer(dims, dtype=">u4"))
    if 0 in shape:
        raise UserError(
            f"{path} holds no {_KIND[num_dims]}s (its header says {_by(shape)}): "
            f"give a file that holds some"
        )
    return shape


def _wrong_magic(path: Path, magic: bytes, num_dims: int) -> str:
    wanted = _KIND[num_dims]
    if magic.startswith(GZIP_MAGIC):
        return f"{path} is gzipped but not named so: add .gz to its name, or gunzip it"
    if len(magic) == 4 and magic[:2] == b"\0\0":
        if magic[2] != UNSIGNED_BYTES:
            return f"{path} holds IDX numbers that are not unsigned bytes: convert it to bytes"
        if magic[3] in _KIND:
            found = _KIND[magic[3]]
            return (
                f"{path} is an IDX file of {found}s where one of {wanted}s belongs: "
                f"are the images and labels files swapped?"
            )
        return (
            f"{path} is an IDX array of {magic[3]} dimensions where {wanted}s have {num_dims}: "
            f"give a file of {wanted}s"
        )
    return f"{path} is not an IDX file of {wanted}s (it starts with {magic!r}): fetch it again"


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)
