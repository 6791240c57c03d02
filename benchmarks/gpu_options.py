"""What the parts of ``gpu.py`` share: the options, and items, which return a row of results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT

Row = dict[str, Any]
Items = dict[str, Callable[[], Row]]
"""Names to functions that measure something."""

PARTS = ("checks", "training", "worst-case", "certified")


@dataclass(frozen=True)
class Options:
    """Settings of this benchmark."""

    device: str = "cuda"
    """cuda, cuda:N or, to test this file, cpu."""
    tiny: bool = False
    """A few images and steps only."""
    parts: tuple[str, ...] = PARTS
    """Which parts to run, in this order."""
    minutes: float = 9.0
    """Time limit of all parts together."""
    resume: bool = False
    """Keep the items that have a result in the output folder."""
    data: str = "mnist"
    """mnist, or a folder with its files."""
    out: Path = ROOT / "benchmarks"
    """Folder for results-gpu.json and results-gpu.md."""
    child: str = ""
    """For internal use: the part to run in this process."""
