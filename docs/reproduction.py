"""Write docs/reproduction.md from a run: python docs/reproduction.py runs/fgsm-null-full."""

from __future__ import annotations

import sys
from pathlib import Path

from nullclass.core.files import write_text
from nullclass.report.measures import Measure, Measures, percent
from nullclass.report.tables import compare, name_of, published_text
from nullclass.results.store import Run, read_run
from nullclass.studies.fgsm_null.config import PIXEL

HEAD = """# The notebook's figures, reproduced

Written by `python docs/reproduction.py RUN` from the rows of the run; made by
`nullclass study fgsm-null --preset full` (the notebook's own recipe: batch 64, five epochs, Adam
1e-3, float32){stopped}.
Seeds: {seeds}.
{num_images:,} clean test images, {num_fgsm:,} for FGSM; torch {torch}.

Rates in %, mean ± standard deviation over the seeds; one seed has no ±, and its losses are not
judged. A published figure counts as reproduced (yes) if it is within two standard deviations of
ours, or within 0.3 points where ours is smaller (losses: 0.003). ε in the notebook's units, {pixel}
pixel units each. Published figures are from one run each (clean accuracy of null-0.5: two runs).

{within} of {num} rates are reproduced, and {within_losses} of {num_losses} losses.

| model | figure | measured | published | reproduced |
|---|---|---|---|---|
"""


def line(measure: Measure) -> str:
    """One row of the table."""
    if measure.is_rate:
        measured, spread = percent(measure.mean), percent(measure.sd)
    else:
        measured, spread = f"{measure.mean:.4f}", f"{measure.sd:.4f}"
    if len(measure.values) > 1:
        measured += f" ± {spread}"
    name = name_of(measure, PIXEL).removeprefix(f"{measure.model}: ")
    verdict = {"within": "yes", "outside": "**no**", "": "–"}[measure.verdict]
    return f"| {measure.model} | {name} | {measured} | {published_text(measure)} | {verdict} |"


def page(run: Run, note: str) -> str:
    """The whole page."""
    measures = Measures(run)
    comparison = compare(measures)
    seeds = "; ".join(
        f"{model} {', '.join(str(trial.seed) for trial in run.trials if trial.model == model)}"
        for model in measures.models
    )
    within, num = comparison.rates
    all_within = sum(measure.verdict == "within" for measure in comparison.all)
    judged = sum(measure.verdict != "" for measure in comparison.all)
    head = HEAD.format(
        stopped=note,
        seeds=seeds,
        num_images=int(run.summary.query("attack == 'none'")["num_images"].max()),
        num_fgsm=int(run.summary.query("attack == 'fgsm'")["num_images"].max()),
        torch=run.info["versions"]["torch"],
        pixel=PIXEL,
        within=within,
        num=num,
        within_losses=all_within - within,
        num_losses=judged - num,
    )
    return head + "\n".join(map(line, comparison.all)) + "\n"


if __name__ == "__main__":
    told = page(read_run(Path(sys.argv[1])), "".join(sys.argv[2:]))
    write_text(Path(__file__).with_name("reproduction.md"), told)
