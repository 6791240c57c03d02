"""Draw a report again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from nullclass.cli.finishing import finish


@dataclass(frozen=True)
class Report:
    """Draw the report of a run folder again, from its rows alone."""

    folder: tyro.conf.Positional[Path]
    """The --out of a study or an evaluation."""

    def run(self) -> None:
        """Run the command."""
        finish(self.folder)
