"""``nullclass report``: draw a report again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from nullclass.cli.common import print_report


@dataclass(frozen=True)
class Command:
    """Draw the report of a run folder again, from its rows.

    Damaged results are listed and left out; the exit status is then 1.
    """

    folder: tyro.conf.Positional[Path]
    """Run folder of a study or an evaluation."""

    def run(self) -> int:
        """Run the command and return the exit status."""
        return int(not print_report(self.folder))
