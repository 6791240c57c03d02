"""Write docs/reproduction.md from a run: python docs/reproduction.py runs/fgsm-null-full."""

from __future__ import annotations

import sys
from pathlib import Path

from nullclass.core.files import write_text
from nullclass.report.formatting import FGSM
from nullclass.report.measures import Measure, Measures
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN
from nullclass.studies.fgsm_null.config import PIXEL
from nullclass.studies.fgsm_null.tables import compared, compared_cell, name_of, reproduced
from nullclass.studies.reports import read_run

HEAD = """# The notebook's figures, reproduced

Written by `python docs/reproduction.py RUN` from the rows of the run. The run is
`nullclass study fgsm-null --preset full` (the notebook's own recipe: batch 64, five epochs, Adam
1e-3, float32){note}.
Seeds: {seeds}.
{num_images} clean test images, {num_fgsm} for FGSM; torch {torch}.

Rates in %, mean ± standard deviation over the seeds. A single seed has no ±, and its losses get no
verdict. A published value counts as reproduced (yes) if it is within two standard deviations of
ours, or within 0.3 points (0.003 for a loss) if that is more. ε in the notebook's units, {pixel}
pixel units each. Published values are from one run each; null-0.5 has two on clean images, and the
verdict is on their middle.

{rates[0]} of {rates[1]} rates and {losses[0]} of {losses[1]} losses are reproduced.

| model | figure | measured | published | reproduced |
|---|---|---|---|---|
"""
VERDICTS = {"within": "yes", "outside": "**no**", "": "–"}


def line(measure: Measure) -> str:
    """One row of the table."""
    cell = compared_cell(measure)
    spread = f" {cell.small}" if cell.small.startswith("±") else ""
    verdict = VERDICTS[measure.verdict]
    figure = f"{cell.text}{spread} | {cell.published}"
    return f"| {measure.model} | {name_of(measure)} | {figure} | {verdict} |"


def page(run: Run, note: str) -> str:
    """The page as Markdown."""
    measures = Measures(run)
    found = compared(measures)
    seeds = [
        f"{model} {', '.join(str(trial.seed) for trial in run.trials if trial.model == model)}"
        for model in measures.models
    ]
    head = HEAD.format(
        note=note,
        seeds="; ".join(seeds),
        num_images=measures.num_images(CLEAN),
        num_fgsm=measures.num_images(FGSM),
        torch=run.info.provenance.versions["torch"],
        pixel=PIXEL,
        rates=reproduced(found, are_rates=True),
        losses=reproduced(found, are_rates=False),
    )
    return head + "\n".join(map(line, found)) + "\n"


if __name__ == "__main__":
    content = page(read_run(Path(sys.argv[1])), "".join(sys.argv[2:]))
    write_text(Path(__file__).with_name("reproduction.md"), content)
