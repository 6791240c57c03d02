"""Report of a run folder: the page and the terminal tables of its study, or of an evaluation.

A study's module ``page`` defines ``page(run)`` and ``summary_tables(run)``. Nothing here imports
torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from nullclass.core.errors import UserError
from nullclass.report.render import on_terminal, write_page
from nullclass.results.store import read_info, read_run, write_summary
from nullclass.studies import EVALUATION, STUDIES

if TYPE_CHECKING:
    from rich.console import Group

    from nullclass.report.blocks import Page, Table
    from nullclass.results.store import Run


class PageModule(Protocol):
    """What a module ``page`` defines."""

    def page(self, run: Run) -> Page:
        """The page of a run."""

    def summary_tables(self, run: Run) -> list[Table]:
        """Tables for the terminal, at most 80 columns wide."""


def page_module(study: object) -> PageModule:
    """The module that draws the runs of a study.

    Args:
        study: Name of the study in ``run.json``; :data:`EVALUATION` for an evaluation.

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


def summary_table(run: Run) -> Group:
    """The tables of a run, for rich's ``print``."""
    return on_terminal(page_module(run.info.get("study")).summary_tables(run))


def write_report(folder: Path) -> Path:
    """Draw the report of a run folder from its rows.

    The same rows give the same bytes. An older report is kept until the new one is complete.

    Returns:
        Path of ``report.html``.

    Raises:
        UserError: If the folder is not a run, something in it is missing or damaged, or the report
            cannot be written.
    """
    study = read_info(folder).get("study")
    module = page_module(study)
    published = {"published": STUDIES[study].published} if study in STUDIES else {}
    write_summary(folder, str(study), **published)  # from the rows, also of an unfinished run
    return write_page(folder, module.page(read_run(folder)))
