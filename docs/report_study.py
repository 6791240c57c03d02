"""Write docs/null-samples.md from a run: python docs/report_study.py runs/null-samples."""

from __future__ import annotations

import sys
from pathlib import Path

from nullclass.core.files import write_text
from nullclass.report.formatting import percent
from nullclass.report.render import markdown_table
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, UNION
from nullclass.studies.null_samples.config import (
    TRANSFER_AT_THRESHOLD,
    WHITE_BOX_AT_THRESHOLD,
    WHITE_BOX_EPS,
)
from nullclass.studies.null_samples.tables import (
    accuracies,
    at_threshold,
    measures_of,
    published_text,
    rule,
    scores,
    with_spread,
)
from nullclass.studies.reports import read_run

PAGE = """# The report's study, reproduced, and white-box attacks

`python docs/report_study.py RUN` writes this page from the rows of a run of
`nullclass study null-samples {options}` (`{preset}` preset). {num_sets} sets, {num_models} models;
torch {torch}. Mean ± standard deviation over the sets, in %; n is the number of images per set.

"Transferred" attacks are the report's: one FGSM step on the *base* model of the same set, with the
smallest ε that fools base (the image's threshold). "White-box" is the worst-case ensemble on each
model itself, on the first of the same images and at the same ε. It is a lower bound: a stronger
attack may fool more images, never fewer.

{verdicts} {rule}

{thresholds}
Clean test accuracy; published values are read off a bar plot.

{clean}
The worst case over all attacks at fixed ε (pixel units, L∞): fooled (AER), and correct when clean
and never fooled (RAR).

{fixed}"""

WORDS = {"correct": "correct", "fooled": "misclassified", "null": "unclassified"}
VERDICTS = {"within": "yes", "outside": "**no**", "": "–"}


def page(run: Run, options: str) -> str:
    """The page as Markdown."""
    measures = measures_of(run)
    verdicts = [
        [measure.verdict for measure in found if measure.verdict]
        for found in (scores(measures), accuracies(measures))
    ]
    counts = [f"{of.count('within')} of {len(of)}" for of in verdicts]
    n = {name: measures.num_images(name) for name in (CLEAN, TRANSFER_AT_THRESHOLD, UNION)}
    white_box = WHITE_BOX_AT_THRESHOLD
    thresholds = []
    for model in measures.models:
        for outcome, word in WORDS.items():
            ours = at_threshold(measures, model, outcome)
            own = at_threshold(measures, model, outcome, white_box)
            cells = [with_spread(ours), published_text(model, outcome) or "–"]
            verdict = VERDICTS[ours.verdict if ours else ""]
            thresholds.append([model, word, *cells, verdict, with_spread(own)])
    rates = [(metric, eps) for eps in WHITE_BOX_EPS for metric in ("aer", "rar")]
    return PAGE.format(
        options=options,
        preset=run.info.preset,
        num_sets=len(measures.seeds),
        num_models=sum(len(measure.values) for measure in accuracies(measures)),
        torch=run.info.provenance.versions["torch"],
        verdicts=f"{counts[0]} published scores and {counts[1]} accuracies are reproduced.",
        rule=rule(),
        thresholds=markdown_table(
            (
                "model",
                "outcome",
                f"transferred, n = {n[TRANSFER_AT_THRESHOLD]}",
                "published, n = 1,000",
                "reproduced",
                f"white-box, n = {measures.num_images(white_box)}",
            ),
            thresholds,
        ),
        clean=markdown_table(
            ("model", f"measured, n = {n[CLEAN]}", "published", "within 0.15 points"),
            (
                [
                    measure.model,
                    with_spread(measure, 2),
                    "–" if measure.published is None else percent(measure.published, 1),
                    VERDICTS[measure.verdict],
                ]
                for measure in accuracies(measures)
            ),
        ),
        fixed=markdown_table(
            ("model", *(f"{m.upper()} at {eps:g}, n = {n[UNION]}" for m, eps in rates)),
            (
                [model, *(with_spread(measures.find(model, UNION, m, eps)) for m, eps in rates)]
                for model in measures.models
            ),
        ),
    )


if __name__ == "__main__":
    text = page(read_run(Path(sys.argv[1])), " ".join(sys.argv[2:]))
    write_text(Path(__file__).with_name("null-samples.md"), text)
