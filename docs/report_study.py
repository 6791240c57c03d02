"""Write docs/null-samples.md and results/null-samples from a run.

``python docs/report_study.py runs/null-samples-full``; the run may be unfinished. The sets that it
has finished are joined with those in results/null-samples.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nullclass.core.files import make_folder, write_bytes, write_text
from nullclass.report.formatting import FGSM, percent, signed, spread_text
from nullclass.report.measures import Measure
from nullclass.report.render import markdown_table
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, RUN, UNION
from nullclass.studies.null_samples.config import (
    BASE,
    TRANSFER_AT_THRESHOLD,
    WHITE_BOX_AT_THRESHOLD,
    WHITE_BOX_EPS,
)
from nullclass.studies.null_samples.figures import FIGURES
from nullclass.studies.null_samples.images import adversarial_samples, null_images
from nullclass.studies.null_samples.page import TABLE_FILE
from nullclass.studies.null_samples.record import joined, read_record, record_of, write_record
from nullclass.studies.null_samples.tables import (
    accuracies,
    at_threshold,
    measures_of,
    published_text,
    rule,
    scores,
    scores_csv,
    standard_errors,
    training_differences,
    within_errors,
)
from nullclass.studies.reports import read_run

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "results" / "null-samples"

PAGE = """# The report's study, reproduced, and white-box attacks

`python docs/report_study.py RUN` writes this page, and the tables and figures in
[results/null-samples](../results/null-samples), from the rows of a run of `nullclass study
null-samples --preset {preset}`. {sets}, {num_models} models;
torch {torch}. Mean ± standard deviation over the sets, in %; n is the number of images per set;
the seed of a set is its number. All ε are in pixel units, L∞.

{differences}
"Transferred" attacks are the report's: one FGSM step on the *base* model of the same set, with the
smallest ε that fools base (the image's threshold). "White-box" is the worst-case ensemble, version
2, on each model itself, on the first of the same images and at the same ε. It is a lower bound: a
stronger attack may fool more images, never fewer. White-box rates are of {num_union} images per
set, a preview.

{verdicts} {rule}

"Difference" is our mean minus the published one, in points and in standard errors of the difference
(SE), sqrt(sd² / {num_sets} + published sd² / 30). Within 2 SE: {close} of {compared}, without
those of base. This is the stricter test: it asks whether both trainings have the same mean, not
whether one of our sets could be one of the report's.

{thresholds}
![Scores at threshold](../results/null-samples/figures/fig_scores_at_threshold.png)

Clean test accuracy; published values are read off a bar plot, without a spread.

{clean}
The worst case over all attacks at fixed ε: fooled (AER), and correct when clean and never fooled
(RAR). Not of all test images, but of each set's first {num_union} that base classifies correctly
when clean and that FGSM on base fools.

{fixed}
![Scores against ε](../results/null-samples/figures/fig_scores_versus_epsilon.png)

*One FGSM step on base of the same set, n = {num_fgsm} per set: median over the sets, band:
quartiles; thin line: base, fooled. Not the worst case of the table above.*

## The 240 models

No set waits for another, so that they can be run in pieces, in any order. Set k attacks test
images from number 1,000 k (modulo 10,000) and replaces those that it skips by the next ones. So
neighbouring sets share about a tenth of their images; the report's share none until all test
images are used. A piece that was interrupted goes on with the same command, and the page and the
tables are drawn from the sets done so far:

```sh
for sets in 0-4 5-9 10-14 15-19 20-24 25-29; do
    nullclass study null-samples --preset full --sets $sets --threads 1 >> sets.log 2>&1 &&
        python docs/report_study.py runs/null-samples-full || break
done
nullclass study null-samples --preset source --threads 1    # one set by the report's own recipe
```

What a model costs is in [scaling.md](scaling.md).
"""

WORDS = {"correct": "correct", "fooled": "misclassified", "null": "unclassified"}
VERDICTS = {"within": "yes", "outside": "**no**", "": "–"}


def text_of(measure: Measure | None, digits: int = 1) -> str:
    """Mean ± sd in percent."""
    return "–" if measure is None else spread_text(measure.mean, measure.sd, digits)


def difference(measure: Measure | None) -> str:
    """Distance of the published mean."""
    distance = None if measure is None else standard_errors(measure)
    if measure is None or measure.published is None or distance is None:
        return "–"
    points = 100 * (measure.mean - measure.published)
    return f"{signed(points, 1)} ({signed(distance, 1)} SE)"


def page(run: Run) -> str:
    """The page as Markdown."""
    measures = measures_of(run)
    verdicts = [
        [measure.verdict for measure in found if measure.verdict]
        for found in ([m for m in scores(measures) if m.model != BASE], accuracies(measures))
    ]
    counts = [f"{of.count('within')} of {len(of)}" for of in verdicts]
    n = {name: measures.num_images(name) for name in (CLEAN, TRANSFER_AT_THRESHOLD, UNION)}
    thresholds = []
    for model in measures.models:
        for outcome, word in WORDS.items():
            ours = at_threshold(measures, model, outcome)
            own = at_threshold(measures, model, outcome, WHITE_BOX_AT_THRESHOLD)
            cells = [text_of(ours), published_text(model, outcome) or "–"]
            cells += [VERDICTS[ours.verdict if ours else ""], difference(ours), text_of(own)]
            thresholds.append([model, word, *cells])
    rates = [(metric, eps) for eps in WHITE_BOX_EPS for metric in ("aer", "rar")]
    close, compared = within_errors(measures)
    texts = {
        "recipe": "The recipe (`nullclass.training.recipes.Recipe`) differs from the report's (in "
        "brackets): {}.",
        "shares": "Null images: {}.",
    }
    found = training_differences(run).items()
    differences = [texts[name].format(text) for name, text in found if text]
    return PAGE.format(
        preset=run.info.preset,
        differences=f"{' '.join(differences)}\n" if differences else "",
        num_union=n[UNION],
        sets=measures.seeds_text("set"),
        num_sets=len(measures.seeds),
        num_models=sum(len(measure.values) for measure in accuracies(measures)),
        torch=run.info.provenance.versions["torch"],
        verdicts=f"{counts[0]} published scores of the models with null images and {counts[1]} "
        f"accuracies are reproduced (at its own thresholds {BASE} is fooled by construction).",
        rule=rule().replace(" (✓)", ""),
        num_fgsm=measures.num_images(FGSM),
        close=close,
        compared=compared,
        thresholds=markdown_table(
            (
                "model",
                "outcome",
                f"transferred, n = {n[TRANSFER_AT_THRESHOLD]}",
                "published, n = 1,000",
                "within 2 sd",
                "difference",
                f"white-box, n = {measures.num_images(WHITE_BOX_AT_THRESHOLD)}",
            ),
            thresholds,
        ),
        clean=markdown_table(
            ("model", f"measured, n = {n[CLEAN]}", "published", "within 0.15 points"),
            (
                [
                    measure.model,
                    text_of(measure, 2),
                    "–" if measure.published is None else percent(measure.published, 1),
                    VERDICTS[measure.verdict],
                ]
                for measure in accuracies(measures)
            ),
        ),
        fixed=markdown_table(
            ("model", *(f"{m.upper()} at {eps:g}, n = {n[UNION]}" for m, eps in rates)),
            (
                [model, *(text_of(measures.find(model, UNION, m, eps)) for m, eps in rates)]
                for model in measures.models
            ),
        ),
    )


def write_figures(record: Run, run: Run, folder: Path) -> None:
    """Write the figures as PNG, and the table of the published scores.

    The figures of images are those of the run, if it has the first set of the record.
    """
    make_folder(folder)
    measures = measures_of(record)
    write_bytes(folder / TABLE_FILE, scores_csv(measures))
    drawings = [draw(measures) for draw in FIGURES.values()]
    if run.summary["seed"].min() == record.summary["seed"].min():
        drawings += [draw(measures_of(run)) for draw in (null_images, adversarial_samples)]
    for panel in (panel for drawing in drawings if drawing for panel in drawing.panels):
        write_bytes(folder / f"{panel.file}.png", panel.png)


def main(folder: Path) -> None:
    """Add a run to the record, and write the page from it."""
    run = read_run(folder)
    for each in run.damaged:
        print(f"damaged: {each.title}: {each.reason}")
    record = record_of(run)
    if left := sorted({*run.info.seeds} - {*record.info.seeds}):
        print(f"sets that are not finished, and left out: {', '.join(map(str, left))}")
    if (RESULTS / RUN).exists():
        record = joined(read_record(RESULTS), record)
    write_record(record, RESULTS)
    write_figures(record, run, RESULTS / "figures")
    write_text(DOCS / "null-samples.md", page(record))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
