"""Write tiny IDX files for tests."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from nullclass.data import FILE_NAMES


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes in the IDX format."""
    assert array.dtype == np.uint8
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_idx(path: Path, array: np.ndarray) -> Path:
    """Write an array as IDX, gzipped if the name ends in .gz."""
    contents = idx_bytes(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(contents) if path.suffix == ".gz" else contents)
    return path


def tiny_arrays(
    num_train: int = 40, num_test: int = 12, num_classes: int = 4, size: int = 6, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random arrays for the four files, by their names; every class occurs."""
    rng = np.random.default_rng(seed)

    def images(count: int) -> np.ndarray:
        return rng.integers(0, 256, (count, size, size), dtype=np.uint8)

    def labels(count: int) -> np.ndarray:
        return (np.arange(count) % num_classes).astype(np.uint8)

    arrays = (images(num_train), labels(num_train), images(num_test), labels(num_test))
    return dict(zip(FILE_NAMES, arrays, strict=True))


def write_dataset(
    folder: Path,
    arrays: dict[str, np.ndarray] | None = None,
    *,
    end: str = "",
    dotted: bool = False,
) -> Path:
    """Write a folder of four IDX files; `end` is "" or ".gz", `dotted` spells .idx3-ubyte."""
    for name, array in (arrays or tiny_arrays()).items():
        spelling = name.replace("-idx", ".idx") if dotted else name
        write_idx(folder / f"{spelling}{end}", array)
    return folder
