"""What a page is made of: sections of blocks. The template knows how to show each kind."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from markupsafe import Markup

from nullclass.results.schema import Flag

Mark = Literal["", "within", "outside"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Bullets:
    """A short list."""

    items: list[str]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Terms:
    """Names and what they mean or hold."""

    pairs: list[tuple[str, str]]
    folded: str = ""
    """Heading to fold them away under."""
    kind: ClassVar[str] = "terms"


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    small: str = ""
    """Spread or interval, under the value."""
    published: str = ""
    """The source's figure, under that."""
    mark: Mark = ""
    """Whether the source's figure is near enough; empty if there is no verdict."""


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of a row names it."""

    title: str
    columns: list[Cell]
    rows: list[list[Cell]]
    caption: str = ""
    holds_words: bool = False
    """Whether its cells are words, which stand on the left and may take several lines."""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Doubt:
    """A reason not to believe an evaluation, and of which model if there are several."""

    flag: Flag
    of: str = ""


@dataclass(frozen=True)
class FlagList:
    """Reasons not to believe an evaluation, to be seen first."""

    items: list[Doubt]
    kind: ClassVar[str] = "doubts"


@dataclass(frozen=True)
class Panel:
    """One picture of a drawing."""

    html: Markup
    """Inline SVG, or images with their text; already escaped."""
    heading: str = ""
    file: str = ""
    """Name, without ending, under which it is also a file in the run's ``figures`` folder."""
    svg: bytes = field(default=b"", repr=False)
    """The file as SVG, if there is a name."""
    png: bytes = field(default=b"", repr=False)
    """The file as PNG."""


@dataclass(frozen=True)
class Drawing:
    """A figure of one or more panels."""

    title: str
    caption: str
    """Attack, number of images, seeds and the unit of eps: all it takes to read the panels."""
    panels: list[Panel] = field(repr=False)
    legend: list[tuple[str, str]] = field(default_factory=list)
    """Label and colour, where the panels do not say it themselves."""
    is_folded: bool = False
    """Whether each panel is folded away until asked for."""
    is_large: bool = False
    """Whether panels get more room than they need: two beside each other at most."""
    kind: ClassVar[str] = "drawing"


@dataclass(frozen=True)
class Scene:
    """A cube of cells that the reader can turn and cut; drawn by the page's only script."""

    title: str
    caption: str
    label: str
    """What it shows, for somebody who cannot see it."""
    spaces: list[tuple[str, str]] = field(repr=False)
    """Name and cells to choose from, as
    :func:`~nullclass.studies.ramps.figures.ramp_cube.run_lengths`
    writes them."""
    answers: list[tuple[str, str, bool]]
    """Name, colour and whether it is shown at first, of each answer of a cell from 0."""
    axes: list[str]
    """Names of the three axes."""
    side: int
    """Cells a side."""
    kind: ClassVar[str] = "scene"


Block = Text | Bullets | Terms | Table | FlagList | Drawing | Scene


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block]

    @property
    def anchor(self) -> str:
        """Name to link to."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    """Study, preset, seeds, images, date: one line."""
    findings: list[str]
    """Sentences of the first paragraph."""
    sections: list[Section]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Further files for the run's ``figures`` folder, by name."""

    def panels(self) -> list[Panel]:
        """The pictures of all its drawings."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [panel for block in blocks if isinstance(block, Drawing) for panel in block.panels]

    def has_scene(self) -> bool:
        """Whether it needs the script."""
        return any(isinstance(block, Scene) for part in self.sections for block in part.blocks)
