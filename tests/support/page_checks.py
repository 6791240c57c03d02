"""What every drawn page must satisfy."""

from __future__ import annotations

import html as html_text
import io
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console

from nullclass.report.blocks import Cell, Drawing, Page, Table
from nullclass.results import schema
from nullclass.results.run import Run
from nullclass.studies.reports import summary_table


def row(table: Table | None, name: str) -> list[Cell]:
    """The row of that name."""
    assert table is not None
    (found,) = [cells for cells in table.rows if cells[0].text == name]
    return found


def drawing(page: Page, title: str) -> Drawing:
    """The drawing of that title."""
    (found,) = [b for b in page.blocks() if isinstance(b, Drawing) and b.title == title]
    return found


def terminal_lines(shown: object) -> list[str]:
    """What a terminal of 80 columns shows of a renderable; nothing may be cut."""
    console = Console(width=80, record=True, file=StringIO())
    console.print(shown)
    text = console.export_text()
    assert "…" not in text
    return text.splitlines()


def texts(svg: str) -> list[str]:
    """Texts in a figure."""
    return [html_text.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def text_of(html: str) -> str:
    """Text of a page without markup, scripts and figures."""
    bare = re.sub(r"<(style|script|svg).*?</\1>", " ", html, flags=re.DOTALL)
    bare = html_text.unescape(re.sub(r"<[^>]*>", " ", bare))
    return " ".join(bare.replace("\u00a0", " ").split())


def terminal_text(run: Run, width: int) -> str:
    """The tables of a run as they are printed."""
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary_table(run))
    return console.export_text()


def check_blocks(page: Page) -> None:
    """No section, table or drawing is empty; every caption of a drawing names its seeds."""
    for section in page.sections:
        assert section.blocks, section.title
    for block in page.blocks():
        if isinstance(block, Table):
            assert block.rows, block.title
            assert {len(cells) for cells in block.rows} == {len(block.columns)}, block.title
        if isinstance(block, Drawing):
            assert block.panels, block.title
            for panel in block.panels:
                bare = without_data(panel.html).lower()
                assert "<svg" in bare or "<img" in bare
                assert "nan" not in bare
                assert "mathdefault" not in bare


def without_data(html: str) -> str:
    """HTML without the bytes of images."""
    return re.sub(r'data:image/png;base64,[^"]*', "data:", html)


def check_html(path: Path, *, has_script: bool = False) -> None:
    """The page is one file of moderate size that refers to nothing outside itself."""
    html = path.read_text(encoding="utf-8")
    bare = without_data(html)
    assert len(html) < 3_000_000
    assert re.findall(r'(?<!xmlns=")(?<!xmlns:xlink=")\b(?:https?:|//)[\w./-]+', bare) == []
    assert bare.count("<script") == has_script
    assert "@import" not in bare
    for reference in re.findall(r'(?:src|href)="([^"]*)"', bare):
        assert reference.startswith(("#", "data:"))
    for anchor in re.findall(r'href="#([^"]*)"', bare):
        assert bare.count(f'id="{anchor}"') == 1
    assert "nan" not in text_of(html).lower().split()


def check_same_bytes(path: Path) -> None:
    """Drawing again, in a process with other matplotlib settings, gives the same bytes.

    Neither torch nor, before something is drawn, matplotlib is imported.
    """
    paths = [path, *path.parent.glob(f"{schema.FIGURES}/*")]
    first = {path: path.read_bytes() for path in paths}
    program = (
        "import sys, pathlib\n"
        "from nullclass.studies.reports import write_report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import matplotlib; matplotlib.rcParams['lines.linewidth'] = 9\n"
        "write_report(pathlib.Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(path.parent)], check=True)
    assert {path: path.read_bytes() for path in paths} == first
