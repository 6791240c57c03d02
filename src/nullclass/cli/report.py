"""``nullclass report``: draw a report again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from nullclass.cli.common import print_report


@dataclass(frozen=True)
class Command:
    """Draw the report of a run folder again, from its rows."""

    folder: tyro.conf.Positional[Path]
    """Run folder of a study or an evaluation."""

    def run(self) -> None:
        """Run the command."""
        print_report(self.folder)
