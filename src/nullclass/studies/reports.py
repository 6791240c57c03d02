"""Report of a run folder: the page and the terminal tables of its study, or of an evaluation.

A study's module ``page`` defines ``page(run)`` and ``summary_tables(run)``. Nothing here imports
torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from nullclass.core.errors import UserError
from nullclass.report.render import check_page, on_terminal, write_page
from nullclass.report.sections import with_damage
from nullclass.results import run as runs
from nullclass.results.run import write_summary
from nullclass.results.schema import EVALUATION
from nullclass.results.store import drawing, read_info
from nullclass.studies import STUDIES

if TYPE_CHECKING:
    from rich.console import Group

    from nullclass.report.blocks import Page, Table
    from nullclass.results.run import Run


class PageModule(Protocol):
    """What a module ``page`` defines."""

    def page(self, run: Run) -> Page:
        """The page of a run."""

    def summary_tables(self, run: Run) -> list[Table]:
        """Tables for the terminal, at most 80 columns wide."""


def page_module(study: object) -> PageModule:
    """The module that draws the runs of a study.

    Args:
        study: ``study`` of ``run.json``: a study's name, or
            :data:`nullclass.results.schema.EVALUATION`.

    Raises:
        UserError: If there is no such study.
    """
    if study == EVALUATION:
        name = "nullclass.report.evaluation_page"
    elif study in STUDIES:
        name = f"{STUDIES[str(study)].package}.page"
    else:
        known = ", ".join([*STUDIES, EVALUATION])
        raise UserError(f"there is no report for a run of {study!r}: known are {known}")
    return cast(PageModule, import_module(name))


def read_run(folder: Path) -> Run:
    """Read a run folder, with the published figures of its study.

    Raises:
        UserError: If the folder is no run folder, or something in it is missing or damaged.
    """
    study = STUDIES.get(read_info(folder).study)
    return runs.read_run(folder) if study is None else runs.read_run(folder, study.published)


def summary_table(run: Run) -> Group:
    """The tables of a run, for rich's ``print``."""
    return on_terminal(page_module(run.info.study).summary_tables(run))


def check_drawable(folder: Path, study: str) -> None:
    """Check, before the work, what a report needs in the end.

    Raises:
        UserError: If the study has no report, or its files cannot be written.
    """
    page_module(study)
    check_page(folder)


def write_report(folder: Path) -> Path:
    """Draw the report of a run folder from its rows, and write its summary.

    The same rows give the same bytes. An older report is kept until the new one is complete.

    Returns:
        Path of ``report.html``.

    Raises:
        UserError: If the folder is not a run, something in it is missing or damaged, the report
            cannot be written, or another process draws it for minutes or changed the run meanwhile.
    """
    before = read_info(folder)
    check_drawable(folder, before.study)
    with drawing(folder):
        found = read_run(folder)
        page = with_damage(page_module(found.info.study).page(found), found)
        if read_info(folder).checksum != before.checksum:
            raise UserError(f"{folder} has changed while its report was drawn: draw it again")
        write_summary(found)
        return write_page(folder, page)
