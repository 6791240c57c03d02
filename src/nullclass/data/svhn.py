"""Reads SVHN, house numbers of 32 x 32 pixels, from its MATLAB files (Netzer et al. 2011)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nullclass.core.errors import UserError
from nullclass.data.idx import Arrays, Bytes

TRAIN = "train_32x32.mat"
TEST = "test_32x32.mat"
URLS = ("http://ufldl.stanford.edu/housenumbers/",)
"""It has no HTTPS; the checksums guard the content."""


def read(paths: Mapping[str, Path]) -> Arrays:
    """Read 73,257 training and 26,032 test images ``(N, 3, 32, 32)``; digit 0 has label 0.

    Raises:
        UserError: If a file does not hold SVHN.
    """
    return (*_read(paths[TRAIN]), *_read(paths[TEST]))


def _read(path: Path) -> tuple[Bytes, Bytes]:
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("X", "y"))
        pixels, labels = content["X"], content["y"].reshape(-1)
    except Exception as error:  # scipy raises all kinds for a damaged file
        raise UserError(f"{path} is no file of SVHN ({error}): fetch it again") from error
    is_svhn = pixels.dtype == labels.dtype == np.uint8 and pixels.shape == (32, 32, 3, len(labels))
    if not is_svhn:
        raise UserError(f"{path} does not hold 32 x 32 colour images of bytes: fetch it again")
    images = np.ascontiguousarray(pixels.transpose(3, 2, 0, 1))
    return images, np.where(labels == 10, 0, labels).astype(np.uint8)
