"""Reads IDX, the file format of MNIST: a short header, then the bytes of one array.

The header is two zero bytes, a code for the type of the numbers (8 for unsigned bytes, the only
one supported), the number of dimensions, and each dimension as a big-endian 32-bit integer
(Y. LeCun, "The MNIST database", section "File formats"). Memory is allocated for the bytes that the
file has, never for those that its header promises.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from nullclass.core.errors import UserError

UNSIGNED_BYTES = 8
CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
_KIND = {1: "label", 3: "image"}

Bytes = npt.NDArray[np.uint8]


def read_images(path: Path) -> Bytes:
    """Read an IDX file of grey images, gzipped if its name ends in ``.gz``.

    Returns:
        ``(N, H, W)`` uint8, 0 … 255, N, H and W at least 1.

    Raises:
        UserError: If the file cannot be read or is not exactly such a file.
    """
    return _read(path, num_dims=3)


def read_labels(path: Path) -> Bytes:
    """Read an IDX file of labels, gzipped if its name ends in ``.gz``.

    Returns:
        ``(N,)`` uint8, N at least 1.

    Raises:
        UserError: If the file cannot be read or is not exactly such a file.
    """
    return _read(path, num_dims=1)


def read_pair(images_path: Path, labels_path: Path) -> tuple[Bytes, Bytes]:
    """Read images and their labels.

    Returns:
        ``(N, H, W)`` and ``(N,)``, both uint8.

    Raises:
        UserError: If either file is bad, or they differ in N.
    """
    images, labels = read_images(images_path), read_labels(labels_path)
    if len(images) != len(labels):
        raise UserError(
            f"{images_path} holds {len(images)} images but {labels_path} holds {len(labels)} "
            f"labels: use two files of the same dataset"
        )
    return images, labels


def content_chunks(path: Path, *, is_gzipped: bool | None = None) -> Iterator[bytes]:
    """Yield the uncompressed content of a file, at most 1 MiB at a time.

    Args:
        path: The file.
        is_gzipped: Default: whether its name ends in ``.gz``.

    Raises:
        UserError: If the file cannot be read or its gzip stream is broken.
    """
    with _open(path, is_gzipped) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


@contextmanager
def _open(path: Path, is_gzipped: bool | None = None) -> Iterator[BinaryIO]:
    """Open a file to read its uncompressed content; errors inside the block become UserErrors."""
    try:
        if path.suffix == ".gz" if is_gzipped is None else is_gzipped:
            with path.open("rb") as raw:
                if raw.read(2) != GZIP_MAGIC:
                    raise UserError(
                        f"{path} is named .gz but is not gzipped: drop .gz from its name, or "
                        f"fetch it again"
                    )
            with gzip.open(path, "rb") as stream:
                yield cast(BinaryIO, stream)
        else:
            with path.open("rb") as stream:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is a broken gzip file ({error}): fetch it again") from error
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror or error}): check that it is there and readable"
        ) from error


def _read(path: Path, num_dims: int) -> Bytes:
    with _open(path) as stream:
        shape = _read_header(stream, path, num_dims)
        expected = math.prod(shape)
        body = bytearray()
        # In chunks, and one byte too many, to notice trailing bytes.
        while len(body) <= expected:
            chunk = stream.read(min(CHUNK, expected + 1 - len(body)))
            if not chunk:
                break
            body += chunk
    if len(body) < expected:
        raise UserError(
            f"{path} is truncated: its header promises {expected} bytes of data ({_by(shape)}) "
            f"but only {len(body)} follow; fetch the file again"
        )
    if len(body) > expected:
        raise UserError(
            f"{path} goes on after the {expected} bytes of data ({_by(shape)}) that its header "
            f"promises: it is damaged or not an IDX file; fetch it again"
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _read_header(stream: BinaryIO, path: Path, num_dims: int) -> tuple[int, ...]:
    """Return the dimensions, all of them at least 1."""
    magic = stream.read(4)
    if magic != bytes((0, 0, UNSIGNED_BYTES, num_dims)):
        raise UserError(_wrong_magic(path, magic, num_dims))
    dims = stream.read(4 * num_dims)
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
