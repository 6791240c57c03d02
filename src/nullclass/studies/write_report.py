"""Rows -> tables, figures, one self-contained HTML page. Loads no model and imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nullclass.core.errors import UserError
from nullclass.core.files import write_bytes, write_text
from nullclass.results.schema import FIGURES as FIGURES_FOLDER
from nullclass.results.schema import REPORT
from nullclass.results.store import read_info, read_run, write_summary
from nullclass.studies import STUDIES
from nullclass.studies.pages import PAGES
from nullclass.studies.terminal import summary_table

if TYPE_CHECKING:
    from nullclass.report.blocks import Page

__all__ = ["PAGES", "render", "summary_table", "write_report"]


def write_report(folder: Path) -> Path:
    """Draw the report of a run folder, from its rows alone.

    The same rows give the same bytes. An older report stays until the new one is whole.

    Returns:
        Path of ``report.html``.

    Raises:
        UserError: If the folder is no run, something in it is missing or damaged, or the report
            cannot be written.
    """
    study = read_info(folder).get("study")
    if study not in PAGES:
        raise UserError(
            f"{folder} holds a run of {study!r}, which has no report: known are {', '.join(PAGES)}"
        )
    if study in STUDIES:  # the rows are the truth, also of a run that was stopped
        write_summary(folder, study, STUDIES[study].published)
    else:
        write_summary(folder, study)
    run = read_run(folder)
    page = PAGES[study](run)
    for panel in page.panels():
        if panel.file:
            for ending, content in (("svg", panel.svg), ("png", panel.png)):
                write_bytes(folder / FIGURES_FOLDER / f"{panel.file}.{ending}", content)
    for name, content in page.files.items():
        write_bytes(folder / FIGURES_FOLDER / name, content)
    path = folder / REPORT
    write_text(path, render(page))
    return path


def render(page: Page) -> str:
    """The HTML of a page: one file, nothing fetched from anywhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nullclass.studies.write_report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tidy"] = _tidy
    return environment.get_template("page.html").render(page=page)


def _tidy(text: str) -> str:
    """Keep a number on the line of its unit."""
    return text.replace(" %", "\u00a0%").replace("ε ", "ε\u00a0").replace(" ± ", "\u00a0±\u00a0")
