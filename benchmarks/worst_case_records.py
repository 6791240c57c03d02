"""What ``worst_case.py`` records: a CSV file per model, a row per attack, eps and chunk."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import msgspec

from common import ROOT
from nullclass.core.documents import Schema
from nullclass.core.files import write_text
from nullclass.core.tables import read_rows

FOLDER = ROOT / "benchmarks" / "worst-case"

PROVED, WRONG = "p", "w"
"""Images that are not attacked: proved never to be fooled within eps; fooled when clean."""

FOOLED, NULL, CORRECT, OUTSIDE = "f", "n", "c", "x"
"""Results of an attack; ``OUTSIDE``: the image left the ball or the box, so it does not count."""


class Record(Schema, frozen=True, kw_only=True):
    """An attack on a chunk of test images at one eps."""

    attack: str
    settings: str
    """Version and digest of its settings; rows of two settings are not comparable."""
    eps: float
    """L∞, in pixel units."""
    first: int
    """Index of the first image."""
    outcomes: str
    """One letter per image."""
    cpu_seconds: float
    pass_seconds: float
    """CPU seconds of a forward and a backward pass per image, measured before and after the attack:
    the speed of the machine at that time."""
    forward: int
    """Images that passed through the model forward."""
    backward: int
    """Images that passed through the model backward."""
    weights: str
    """Digest of the model."""
    versions: str
    processor: str

    @property
    def key(self) -> tuple[str, float, int]:
        """What tells the records of a model apart."""
        return self.attack, self.eps, self.first

    def images(self, letters: str) -> set[int]:
        """Return the indices of the images with one of these letters."""
        return {self.first + n for n, letter in enumerate(self.outcomes) if letter in letters}


def path_of(model: str, folder: Path) -> Path:
    """Return the file of a model's records."""
    return folder / f"{model}.csv"


def read_records(model: str, folder: Path) -> list[Record]:
    """Return the records of a model; none if there is no file.

    Raises:
        UserError: If the file is damaged.
    """
    path = path_of(model, folder)
    return read_rows(path, Record, "worst-case records") if path.exists() else []


def write_records(model: str, records: Iterable[Record], folder: Path) -> None:
    """Replace the records of a model, sorted, by rename."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in msgspec.structs.fields(Record))
    for record in sorted(records, key=lambda record: record.key):
        writer.writerow(msgspec.structs.astuple(record))
    write_text(path_of(model, folder), text.getvalue())
