"""Write the results in docs/detectors.md and results/detectors from a run, its only argument."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from marks import bullets, facts, replace_results

from nullclass.core.files import make_folder, write_bytes
from nullclass.report.blocks import Drawing, Table
from nullclass.report.measures import Measures
from nullclass.report.render import markdown_table
from nullclass.results.frames import write_frame
from nullclass.results.schema import SUMMARY
from nullclass.studies.detectors.config import VARIANTS
from nullclass.studies.detectors.figures import knowledge
from nullclass.studies.detectors.measured import networks
from nullclass.studies.detectors.page import findings
from nullclass.studies.detectors.tables import aware_table, unaware_table
from nullclass.studies.reports import read_run

PAGE = Path(__file__).with_name("detectors.md")
RESULTS = PAGE.parents[1] / "results" / "detectors"

HEAD = """`nullclass study detectors --preset {preset}`: {seeds}, {data}, torch {torch}.
{processor}. In %, with 95 % Wilson intervals over the images. ε in pixel units. AER and null-DoS
are lower bounds, RAR an upper bound. Attacks: `worst-case` and `worst-case-force-null`, version
{version}, with `nearest-first`.
"""


def results(measures: Measures, drawing: Drawing | None) -> str:
    """The text between the two marks."""
    processor = measures.run.info.provenance.machine.processor
    head = HEAD.format(**facts(measures), processor=processor)
    sentences = bullets(measures, VARIANTS, findings(measures))
    return "\n".join([head, sentences, *_pictures(drawing), *_tables(measures)])


def _pictures(drawing: Drawing | None) -> Iterator[str]:
    """The figure of every network, and the caption."""
    if drawing is not None:
        for panel in drawing.panels:
            yield f"![{panel.heading}](../results/detectors/figures/{panel.file}.png)\n"
        yield f"*{drawing.caption}*\n"


def _tables(measures: Measures) -> Iterator[str]:
    for network in networks(measures):
        yield from _table(aware_table(measures, network))
        yield from _table(unaware_table(measures, network, measures.union_budgets()[-1]))


def _table(table: Table) -> Iterator[str]:
    """Title, rows with their intervals, and caption."""
    yield f"### {table.title}\n"
    headings = [" ".join(filter(None, (cell.text, cell.small))) for cell in table.columns]
    rows = [
        [f"{cell.text} ({cell.small})" if cell.small else cell.text for cell in cells]
        for cells in table.rows
    ]
    yield markdown_table(headings, rows)
    yield f"{table.caption}\n"


if __name__ == "__main__":
    measures = Measures(read_run(Path(sys.argv[1])))
    drawing = knowledge(measures)
    make_folder(RESULTS / "figures")
    write_frame(RESULTS / SUMMARY, measures.run.summary)
    for panel in drawing.panels if drawing else []:
        write_bytes(RESULTS / "figures" / f"{panel.file}.png", panel.png)
    replace_results(PAGE, __file__, results(measures, drawing))
