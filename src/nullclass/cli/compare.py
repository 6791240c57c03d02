"""``nullclass compare``: several evaluations in one table and one report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from nullclass.cli.common import print_rich
from nullclass.cli.outputs import check_output
from nullclass.core.errors import UserError


@dataclass(frozen=True)
class Command:
    """Compare evaluations of the same images by the same attacks: one table, one report."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of evaluations or studies."""
    out: Path = Path("runs/compare")
    """Folder for report.html, its figures and summary.csv."""
    allow_differences: bool = False
    """Compare also evaluations of other images, norms or attacks; the report says what differs."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.metrics.comparable import check_comparable, find_differences
        from nullclass.report.comparison_page import (
            join_runs,
            page,
            subjects_of,
            summary_tables,
        )
        from nullclass.report.render import on_terminal, write_page
        from nullclass.results.frames import write_frame
        from nullclass.results.run import read_run
        from nullclass.results.schema import RUN, SUMMARY

        check_output(self.out)
        if (self.out / RUN).exists():
            raise UserError(f"{self.out} is a run folder: choose another --out")
        run = join_runs([read_run(folder) for folder in self.runs])
        differences = find_differences(subjects_of(run))
        if not self.allow_differences:
            check_comparable(differences, "pass --allow-differences to compare them all the same")
        path = write_page(self.out, page(run, differences))
        write_frame(self.out / SUMMARY, run.summary)
        print_rich(on_terminal(summary_tables(run)))
        for difference in differences:
            print(f"not comparable: {difference}")
        print(f"report: {path}")
