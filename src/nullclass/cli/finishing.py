"""How a command ends that leaves a run folder."""

from __future__ import annotations

import sys
from pathlib import Path


def finish(folder: Path) -> None:
    """Draw the report, print the table and the report's path."""
    from rich.console import Console

    from nullclass.results.store import read_run
    from nullclass.studies.reports import summary_table, write_report

    path = write_report(folder)
    # A pipe has no width: wide enough that no column is cut.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(summary_table(read_run(folder)))
    console.print(f"report: {path}", soft_wrap=True, highlight=False)
