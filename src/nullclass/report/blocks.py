"""Contents of a page: sections of blocks. ``page.html`` has a case per class of block."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

from nullclass.results.schema import Flag

Mark = Literal["", "within", "outside"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A short list."""

    items: list[str]


@dataclass(frozen=True)
class Terms:
    """Names and their definitions or values."""

    pairs: list[tuple[str, str]]
    folded: str = ""
    """Heading of the collapsed list, if it is collapsed."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    small: str = ""
    """Spread or interval, below the value."""
    published: str = ""
    """Published value, below the spread."""
    mark: Mark = ""
    """Whether the published value is reproduced; empty if there is no verdict."""


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of a row is its name."""

    title: str
    columns: list[Cell]
    rows: list[list[Cell]]
    caption: str = ""
    note: str = ""
    """On the small print in cells, which the terminal does not show."""
    holds_words: bool = False
    """Whether cells are words: left-aligned, several lines."""


@dataclass(frozen=True)
class FlagItem:
    """A red flag and, if there are several models, the model it is about."""

    flag: Flag
    model: str = ""


@dataclass(frozen=True)
class FlagList:
    """Red flags."""

    items: list[FlagItem]


@dataclass(frozen=True)
class Panel:
    """One picture of a drawing."""

    html: Markup = field(repr=False)
    """Inline SVG, or images with their text; already escaped."""
    heading: str = ""
    file: str = ""
    """Name without ending of its files in the run's ``figures`` folder, if it has any."""
    svg: bytes = field(default=b"", repr=False)
    png: bytes = field(default=b"", repr=False)

    def _repr_png_(self) -> bytes | None:
        """Return the picture for notebooks."""
        return self.png or None


@dataclass(frozen=True)
class Drawing:
    """A figure of one or more panels."""

    title: str
    caption: str
    """Attack, number of images, seeds and the unit of ε."""
    panels: list[Panel] = field(repr=False)
    legend: list[tuple[str, str]] = field(default_factory=list)
    """Label and colour, where the panels have no legend."""
    is_folded: bool = False
    """Whether each panel is collapsed at first."""
    is_large: bool = False
    """Whether at most two panels share a line."""


@dataclass(frozen=True)
class Scene:
    """A cube of cells that the reader can turn and cut; needs the page's only script."""

    title: str
    caption: str
    label: str
    """Text alternative."""
    spaces: list[tuple[str, str]] = field(repr=False)
    """Name and run-length encoded cells of each cube to choose from
    (:func:`nullclass.studies.ramps.cube.run_lengths`)."""
    answers: list[tuple[str, str, bool]]
    """Name, colour and whether it is shown at first, of each value of a cell from 0."""
    axes: list[str]
    """Names of the three axes."""
    side: int
    """Cells per side."""


Block = Text | Bullets | Terms | Table | FlagList | Drawing | Scene


@dataclass(frozen=True)
class Section:
    """A heading and its blocks."""

    title: str
    blocks: list[Block]

    @property
    def anchor(self) -> str:
        """Name to link to."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    subtitle: str
    """Study, preset, seeds, images, date: one line."""
    findings: list[str]
    """Sentences of the first paragraph."""
    sections: list[Section]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Further files for the run's ``figures`` folder, by name."""

    def blocks(self) -> Iterator[Block]:
        """All blocks, in order."""
        for section in self.sections:
            yield from section.blocks

    def panels(self) -> list[Panel]:
        """The panels of all drawings."""
        return [
            panel for block in self.blocks() if isinstance(block, Drawing) for panel in block.panels
        ]

    def has_scene(self) -> bool:
        """Whether the page needs the script."""
        return any(isinstance(block, Scene) for block in self.blocks())


def section(title: str, *blocks: Block | None) -> list[Section]:
    """A section of the blocks, without those that are ``None`` and tables without rows.

    No section if nothing is left.
    """
    present = [b for b in blocks if b is not None and not (isinstance(b, Table) and not b.rows)]
    return [Section(title, present)] if present else []
