"""Pages as HTML files, and tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nullclass.core.errors import UserError
from nullclass.core.files import write_bytes, write_text
from nullclass.core.paths import inside
from nullclass.report.blocks import Page, Table
from nullclass.results.schema import FIGURES, REPORT

if TYPE_CHECKING:
    from rich.console import Group

MARKS = {"within": "✓", "outside": "✗", "": ""}


def render(page: Page) -> str:
    """The HTML of a page: one self-contained file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nullclass.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tidy"] = _tidy
    return environment.get_template("page.html").render(page=page)


def _tidy(text: str) -> str:
    """Text with a no-break space between a number and its unit."""
    return text.replace(" %", "\u00a0%").replace("ε ", "ε\u00a0").replace(" ± ", "\u00a0±\u00a0")


def check_page(folder: Path) -> None:
    """Check that a page could be written into a folder.

    Raises:
        UserError: If something else has the name of the page or of its folder of figures.
    """
    for name, is_expected in ((REPORT, Path.is_file), (FIGURES, Path.is_dir)):
        path = folder / name
        if path.is_symlink() or (path.exists() and not is_expected(path)):
            raise UserError(f"{path} is in the way of the report: remove it")


def write_page(folder: Path, page: Page) -> Path:
    """Write a page and its figures into a run folder; an older page is replaced last.

    Returns:
        Path of ``report.html``.

    Raises:
        UserError: If something has the name of the page or its folder, or it cannot be written.
    """
    check_page(folder)
    files = dict(page.files)
    for panel in page.panels():
        if panel.file:
            files |= {f"{panel.file}.svg": panel.svg, f"{panel.file}.png": panel.png}
    for name, content in files.items():
        write_bytes(inside(folder, f"{FIGURES}/{name}"), content)
    write_text(folder / REPORT, render(page))
    return folder / REPORT


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def on_terminal(tables: Sequence[Table]) -> Group:
    """Tables for rich's ``print``, one line per row; spreads are left to the page."""
    from rich import box
    from rich import table as rich_table
    from rich.console import Group
    from rich.markup import escape

    shown = []
    for table in (table for table in tables if table.rows):
        grid = rich_table.Table(
            title=escape(table.title),
            caption=escape(table.caption),
            box=box.SIMPLE_HEAD,
            padding=(0, 1),
        )
        for index, heading in enumerate(table.columns):
            is_text = index == 0 or not heading.text
            grid.add_column(
                escape(heading.text), justify="left" if is_text else "right", no_wrap=True
            )
        for row in table.rows:
            grid.add_row(*(escape(cell.text) for cell in row))
        shown.append(grid)
    return Group(*shown)
