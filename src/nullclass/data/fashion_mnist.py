"""Fashion-MNIST: 60 000 + 10 000 pictures of clothes, 28x28, 10 classes (arXiv 1708.07747)."""

from __future__ import annotations

from nullclass.data.known import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, KnownDataset
from nullclass.data.sources import DebianPackage, Mirrors

FASHION_MNIST = KnownDataset(
    name="fashion-mnist",
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
    sources=(
        Mirrors(
            (
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                # An S3 website speaks no HTTPS; the checksums are what we trust.
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            )
        ),
        DebianPackage("dataset-fashion-mnist", folder="usr/share/datasets/fashion-mnist"),
    ),
    subfolders=(".", "raw", "FashionMNIST/raw"),
)
