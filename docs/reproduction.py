"""Write docs/reproduction.md from a run: python docs/reproduction.py runs/fgsm-null-full."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from nullclass.core.files import write_text
from nullclass.report.formatting import FGSM
from nullclass.report.measures import Measure
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN
from nullclass.studies.fgsm_null.config import PIXEL
from nullclass.studies.fgsm_null.loop import measures_of, rule
from nullclass.studies.fgsm_null.tables import (
    compared,
    loop_text,
    name_of,
    published_text,
    reproduced,
    value_text,
)
from nullclass.studies.reports import read_run

HEAD = """# The notebook's figures, reproduced

Written by `python docs/reproduction.py RUN` from the rows of the run, `nullclass study fgsm-null
--preset {preset}`.
Seeds: {seeds}.
{num_images} clean test images, {num_fgsm} for FGSM; torch {torch}.

{rule}

Rates in %, mean ± standard deviation over the seeds (a single seed has no ±). ε in the notebook's
units, {pixel} pixel units each. null-0.5 was run twice on clean images.

{rates[0]} of {rates[1]} rates and {losses[0]} of {losses[1]} losses are reproduced.

| model | figure | measured | published | loop | reproduced |
|---|---|---|---|---|---|
"""
VERDICTS = {"within": "yes", "outside": "**no**", "": "–"}


def line(measure: Measure) -> str:
    """One row of the table."""
    texts = (measure.model, name_of(measure), value_text(measure))
    texts += (published_text(measure), loop_text(measure), VERDICTS[measure.verdict])
    return f"| {' | '.join(texts)} |"


def page(run: Run) -> str:
    """The page as Markdown."""
    measures = measures_of(run)
    found = compared(measures)
    seeds = [
        f"{model} {', '.join(str(trial.seed) for trial in run.trials if trial.model == model)}"
        for model in measures.models
    ]
    head = HEAD.format(
        preset=run.info.preset,
        rule=textwrap.fill(rule(), 100),
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
    content = page(read_run(Path(sys.argv[1])))
    write_text(Path(__file__).with_name("reproduction.md"), content)
