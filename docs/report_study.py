"""Write docs/null-samples.md from a run: python docs/report_study.py runs/null-samples."""

from __future__ import annotations

import sys
from pathlib import Path

from nullclass.core.files import write_text
from nullclass.metrics.rates import UNION
from nullclass.report.measures import Measure, Measures, percent
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run, read_run
from nullclass.studies.null_samples.config import (
    TRANSFER_AT_THRESHOLD,
    WHITE_BOX_AT_THRESHOLD,
    WHITE_BOX_EPS,
)
from nullclass.studies.null_samples.sample_tables import (
    accuracies,
    at_threshold,
    measures_of,
    published_text,
    rule,
    scores,
    white_box,
    with_spread,
)

HEAD = """# The report's study, reproduced, and what it does not say

Written by `python docs/report_study.py RUN` from the rows of the run; made by
`nullclass study null-samples {options}` (`{preset}` preset). {num_sets} sets, {num_models} models;
torch {torch}. Mean ± standard deviation over the sets, in %.

Attacks "transferred" are the report's: one FGSM step on the *base* model of the same set, each
image with the smallest ε that makes base err (its threshold); {num_transfer} images a set.
"White-box" is the worst-case ensemble on each model itself, same images, same ε; the first
{num_white} of them. It is a lower bound: a stronger attack may fool more, never fewer.

{verdicts} {rule}

| model | outcome | transferred | published | reproduced | white-box |
|---|---|---|---|---|---|
"""

CLEAN_HEAD = """
Clean test accuracy, 10,000 images; published as read off a bar plot.

| model | measured | published | within 0.15 points |
|---|---|---|---|
"""

FIXED_HEAD = """
The worst of all attacks at fixed ε (pixel units, L∞), {num} images a set: fooled by some (AER), and
right and never fooled (RAR).

| model | {columns} |
|---|{dashes}|
"""

WORDS = {"correct": "correct", "fooled": "misclassified", "null": "unclassified"}
VERDICTS = {"within": "yes", "outside": "**no**", "": "–"}


def page(run: Run, options: str) -> str:
    """The whole page."""
    measures = measures_of(run)
    told = [*scores(measures), *accuracies(measures)]
    within = [sum(m.verdict == "within" for m in found) for found in _both(measures)]
    judged = [sum(m.verdict != "" for m in found) for found in _both(measures)]
    head = HEAD.format(
        options=options,
        preset=run.info["preset"],
        num_sets=len(measures.seeds),
        num_models=sum(len(measure.values) for measure in told if measure.attack == CLEAN),
        torch=run.info["versions"]["torch"],
        num_transfer=measures.num_images(TRANSFER_AT_THRESHOLD),
        num_white=measures.num_images(WHITE_BOX_AT_THRESHOLD),
        verdicts=f"{within[0]} of {judged[0]} published scores and {within[1]} of {judged[1]} "
        "accuracies are reproduced.",
        rule=rule(),
    )
    lines = []
    for model in measures.models:
        for outcome, word in WORDS.items():
            ours = at_threshold(measures, model, outcome)
            verdict = VERDICTS[ours.verdict if ours else ""]
            lines.append(
                f"| {model} | {word} | {with_spread(ours)} | "
                f"{published_text(model, outcome) or '–'} | {verdict} | "
                f"{with_spread(white_box(measures, model, outcome))} |"
            )
    clean = [
        f"| {m.model} | {with_spread(m, 2)} | "
        f"{percent(m.published, 1) if m.published is not None else '–'} | {VERDICTS[m.verdict]} |"
        for m in accuracies(measures)
    ]
    fixed = []
    for model in measures.models:
        cells = [
            f"{with_spread(measures.find(model, UNION, 'aer', eps))} / "
            f"{with_spread(measures.find(model, UNION, 'rar', eps))}"
            for eps in WHITE_BOX_EPS
        ]
        fixed.append(f"| {model} | {' | '.join(cells)} |")
    fixed_head = FIXED_HEAD.format(
        num=measures.num_images(UNION),
        columns=" | ".join(f"AER / RAR at {eps:g}" for eps in WHITE_BOX_EPS),
        dashes="|".join("---" for _ in WHITE_BOX_EPS),
    )
    parts = [head, *lines, CLEAN_HEAD.rstrip(), *clean, fixed_head.rstrip(), *fixed]
    return "\n".join(part.removesuffix("\n") for part in parts) + "\n"


def _both(measures: Measures) -> tuple[list[Measure], list[Measure]]:
    return scores(measures), accuracies(measures)


if __name__ == "__main__":
    told = page(read_run(Path(sys.argv[1])), " ".join(sys.argv[2:]))
    write_text(Path(__file__).with_name("null-samples.md"), told)
