"""Reads CIFAR-10 and CIFAR-100 from their binary archives, never the pickled ones.

A record is one byte for the label (CIFAR-100: a byte for the superclass, then one for the class),
then 32 x 32 bytes each of red, green and blue (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nullclass.core.errors import UserError
from nullclass.data.idx import Arrays, Bytes

ARCHIVE_10 = "cifar-10-binary.tar.gz"
ARCHIVE_100 = "cifar-100-binary.tar.gz"

URLS = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
)
"""The last has CIFAR-10 only."""

CLASS_NAMES_10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_NAMES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree
orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum
rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASS_NAMES_100 = tuple(_NAMES_100.split())

PICKLED = (
    *("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1", "test_batch"),
    *("cifar-100-python.tar.gz", "cifar-100-python"),
)
"""Names of the pickled archives, and of their folders and files."""

UNPACKED = (
    *("cifar-10-batches-bin", "data_batch_1.bin", "test_batch.bin"),
    *("cifar-100-binary", "train.bin", "test.bin"),
)
"""Names of folders and files in the binary archives."""

_PIXELS = 3 * 32 * 32
_MAX_BYTES = 50_000 * (2 + _PIXELS)
"""Most bytes of a file in an archive."""


def read_10(paths: Mapping[str, Path]) -> Arrays:
    """Read CIFAR-10: 50,000 training and 10,000 test images ``(N, 3, 32, 32)``, 10 classes.

    Raises:
        UserError: If the archive is damaged, or names a path outside its folder.
    """
    folder = "cifar-10-batches-bin"
    train = [f"{folder}/data_batch_{number}.bin" for number in range(1, 6)]
    return _read(paths[ARCHIVE_10], train, f"{folder}/test_batch.bin", num_labels=1)


def read_100(paths: Mapping[str, Path]) -> Arrays:
    """Read CIFAR-100 with its 100 classes, as :func:`read_10`."""
    folder = "cifar-100-binary"
    return _read(paths[ARCHIVE_100], [f"{folder}/train.bin"], f"{folder}/test.bin", num_labels=2)


def _read(archive: Path, train: list[str], test: str, num_labels: int) -> Arrays:
    """Return the records of files in an archive; the last byte before the pixels is the label."""
    contents = _contents(archive, {*train, test})
    records = []
    for names in (train, [test]):
        size = num_labels + _PIXELS
        content = b"".join(contents[name] for name in names)
        if not content or len(content) % size:
            raise UserError(f"{archive} is damaged: {names[0]} holds no records of {size} bytes")
        records.append(np.frombuffer(content, np.uint8).reshape(-1, size))
    train_images, test_images = (_images(each, num_labels) for each in records)
    train_labels, test_labels = (each[:, num_labels - 1].copy() for each in records)
    return train_images, train_labels, test_images, test_labels


def _images(records: Bytes, num_labels: int) -> Bytes:
    return records[:, num_labels:].copy().reshape(-1, 3, 32, 32)


def _contents(archive: Path, names: set[str]) -> dict[str, bytes]:
    """Return the contents of files in an archive. Nothing is unpacked to the disk."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise UserError(
                        f"{archive} names a path outside its folder ({member.name}): fetch it again"
                    )
                stream = tar.extractfile(member) if member.name in names else None
                if stream is not None and member.size <= _MAX_BYTES:
                    contents[member.name] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive} is damaged ({error}): fetch it again") from error
    missing = names - contents.keys()
    if missing:
        raise UserError(f"{archive} lacks {min(missing)}: fetch it again")
    return contents
