"""``nullclass compare``: several evaluations in one table and one report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from nullclass.cli.common import print_damaged, print_rich
from nullclass.cli.outputs import check_output, names_in
from nullclass.core.errors import UserError
from nullclass.core.files import locked


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
        from nullclass.results.schema import FIGURES, REPORT, SUMMARY

        check_output(self.out)
        _check_free(self.out, {REPORT, FIGURES, SUMMARY})
        runs = [read_run(folder) for folder in self.runs]
        run = join_runs(runs)
        differences = find_differences(subjects_of(run))
        if not self.allow_differences:
            check_comparable(differences, "pass --allow-differences to compare them all the same")
        with locked(self.out):
            path = write_page(self.out, page(run, differences))
            write_frame(self.out / SUMMARY, run.summary)
        for each in runs:
            wanted = len(each.info.trials)
            if missing := wanted - len(each.trials):
                print(f"{each.folder}: {missing} of {wanted} evaluations are missing")
            print_damaged(each)
        print_rich(on_terminal(summary_tables(run)))
        for difference in differences:
            print(f"not comparable: {difference}")
        print(f"report: {path}")


def _check_free(folder: Path, own: set[str]) -> None:
    """Refuse a folder that holds something else than a comparison."""
    if others := names_in(folder) - own:
        raise UserError(
            f"{folder} holds {min(others)!r} and is no folder of a comparison: choose another --out"
        )
