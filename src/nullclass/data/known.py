"""What the package knows about a dataset before it has a file of it (imports no torch).

A :class:`KnownDataset` names the classes, the checksums and the places a dataset can come from. A
place is a :class:`Source`; adding one means adding a class with ``label`` and ``bring``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

FILE_NAMES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
"""The four files of an IDX dataset, by their usual names, without ``.gz``."""

Accept = Callable[[str, Path], None]
"""``accept(name, path)`` takes in one fetched file, or raises :class:`SourceError`."""


class SourceError(Exception):
    """A source could not bring a file; the next source is tried."""


class Source(Protocol):
    """A place where the files of a dataset can be fetched."""

    @property
    def label(self) -> str:
        """The place in a few words, for messages and for the record of a run."""
        ...

    def bring(self, names: Sequence[str], folder: Path, accept: Accept) -> None:
        """Fetch files and hand over each as soon as it is there.

        Args:
            names: The wanted files, from :data:`FILE_NAMES`.
            folder: An empty folder to work in; whatever is left there is deleted.
            accept: Called once for every file brought, gzipped or not.

        Raises:
            SourceError: If some of the files could not be brought.
        """
        ...


@dataclass(frozen=True)
class KnownDataset:
    """One dataset of four IDX files."""

    name: str
    """The name on the command line, such as ``mnist``."""
    title: str
    """The name in a sentence, such as ``MNIST``."""
    class_names: tuple[str, ...]
    """One name for each of the K classes, in the order of the labels."""
    md5: dict[str, str]
    """MD5 of each *uncompressed* file, by the names in :data:`FILE_NAMES`."""
    sources: tuple[Source, ...]
    """Where the files can be fetched, in the order to try."""
    subfolders: tuple[str, ...] = (".", "raw")
    """Where the files may lie inside a folder that the user names, in the order to look."""
    pixel_statistics: tuple[float, float] | None = None
    """Published mean and standard deviation in [0,1] units; computed from the data if None."""
