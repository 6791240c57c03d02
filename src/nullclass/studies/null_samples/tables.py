"""Tables of the study ``null-samples``: published scores, other selections, white-box attacks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from io import StringIO
from typing import Any

import pandas as pd

from nullclass.core.errors import UserError
from nullclass.core.files import read_json
from nullclass.report.blocks import Cell, Table
from nullclass.report.formatting import eps_text, percent, value_cell
from nullclass.report.measures import OWN_BUDGET, Measure, Measures, on_common_seeds
from nullclass.report.render import MARKS
from nullclass.results.schema import CLEAN, RESULT
from nullclass.results.store import Run
from nullclass.studies.null_samples.config import (
    AT_THRESHOLD,
    BASE,
    TRANSFER,
    TRANSFER_AT_THRESHOLD,
    WHITE_BOX_AT_THRESHOLD,
)

READ_OFF = 0.0015
"""Tolerance of a rate that is read off a plot: 0.15 points."""
LAST_DIGIT = 0.0005
"""Half of the last digit of a published rate with one decimal in percent."""
SOURCE_SETS = 30
"""Number of sets behind the published scores."""

OUTCOMES = {
    "correct": "correct",
    "fooled": "misclassified (fooled)",
    "null": "unclassified (null)",
}
"""Outcomes in the report's words and order."""

SELECTED = (
    (CLEAN, "correct", 0.0),
    *((TRANSFER_AT_THRESHOLD, outcome, OWN_BUDGET) for outcome in OUTCOMES),
)
"""Attack, outcome and ε of the rates that are compared between selections."""

LANDMARKS = (
    (("base",), "fooled", 0.5, "about 90"),
    (("base",), "fooled", 1.0, "about 90"),
    (("m", "um"), "null", 0.08, "nearly all"),
    (("m", "um"), "fooled", 0.8, "about 85"),
    (("sm", "usm"), "null", 0.2, "nearly all"),
    (("sm", "usm"), "null", 1.0, "nearly all"),
)
"""Rates that can be read off the report's curves: models, outcome, ε, percent."""


def source_spread(measure: Measure) -> float | None:
    """Two standard deviations of the report's sets, at least the last published digit.

    :data:`READ_OFF` for a clean accuracy, which is read off a plot.
    """
    if measure.attack == CLEAN:
        return READ_OFF
    published = AT_THRESHOLD.get(measure.model, {}).get(measure.name)
    return None if published is None else max(2 * published[1], LAST_DIGIT)


def measures_of(run: Run, selection: str | None = None) -> Measures:
    """Measures of a run, judged by :func:`source_spread`."""
    return Measures(run, selection, source_spread)


def at_threshold(
    measures: Measures, model: str, outcome: str, attack: str = TRANSFER_AT_THRESHOLD
) -> Measure | None:
    """The rate of an outcome under an attack at each image's own threshold."""
    return measures.find(model, attack, outcome, OWN_BUDGET)


def scores(measures: Measures) -> list[Measure]:
    """The published kind of scores: transferred attack at the thresholds."""
    found = [at_threshold(measures, model, word) for model in measures.models for word in OUTCOMES]
    return [measure for measure in found if measure is not None]


def accuracies(measures: Measures) -> list[Measure]:
    """Clean accuracies."""
    return measures.find_all(measures.models, CLEAN, "correct")


def kept_epochs(run: Run, measures: Measures) -> list[tuple[str, dict[str, int]]]:
    """Model and epoch kept by each selection, one item per training that records them."""
    found = []
    for trial in run.trials:
        folder = trial.result.get("trained_in")
        if trial.selection != measures.selection or not folder:
            continue
        try:
            epochs = read_json(run.folder / str(folder) / RESULT, "result").get("epochs")
        except UserError:  # the trial is complete without it
            continue
        if isinstance(epochs, dict):
            found.append((trial.model, {str(name): int(n) for name, n in epochs.items()}))
    return found


def published_text(model: str, outcome: str) -> str | None:
    """A published score as in the report: mean ± sd in percent."""
    published = AT_THRESHOLD.get(model, {}).get(outcome)
    return None if published is None else " ± ".join(percent(value, 1) for value in published)


def with_spread(measure: Measure | None, digits: int = 1) -> str:
    """Mean, and sd with several sets, in percent without the sign."""
    if measure is None:
        return "–"
    spread = f" ± {percent(measure.sd, digits)}" if len(measure.values) > 1 else ""
    return percent(measure.mean, digits) + spread


def rule() -> str:
    """When a published rate counts as reproduced."""
    return (
        "A published score at threshold counts as reproduced (✓) if it is within 2 of the report's "
        f"own sd ({SOURCE_SETS} sets) of our mean, or equal to the published digits where that sd "
        f"is 0; a test accuracy, read off a plot, if it is within {percent(READ_OFF)} points."
    )


def _sets(measures: Measures) -> str:
    return f"{measures.seeds_text('set')}, selected on {measures.selection} images."


def _n(measures: Measures, attack: str) -> str:
    return f"n {measures.num_images(attack)}" if measures.budgets(attack) else "n 0"


def _spread(measures: Measures) -> str:
    note = measures.spread_note("set")
    is_mixed = len(measures.seeds) > 1 and any(len(m.values) == 1 for m in measures.all)
    return note + (" With one set: 95 % Wilson interval over the images." if is_mixed else "")


def threshold_table(measures: Measures) -> Table:
    """Outcomes at the thresholds: transferred with the published values, and white-box."""
    attacks = {TRANSFER_AT_THRESHOLD: "transfer"}
    if measures.budgets(WHITE_BOX_AT_THRESHOLD):
        attacks[WHITE_BOX_AT_THRESHOLD] = "white-box"
    rows = []
    for model in measures.models:
        row = [Cell(model)]
        for attack in attacks:
            for outcome in OUTCOMES:
                published = (
                    published_text(model, outcome) if attack != WHITE_BOX_AT_THRESHOLD else ""
                )
                row.append(value_cell(at_threshold(measures, model, outcome, attack), published, 1))
        rows.append(row)
    return Table(
        "Scores at threshold, measured and published",
        [
            Cell("model"),
            *(
                Cell(outcome, f"{name}, %, {_n(measures, attack)}")
                for attack, name in attacks.items()
                for outcome in OUTCOMES
            ),
        ],
        rows,
        f"Each image at its own threshold (L∞, pixel units). Transfer: FGSM on {BASE} of the same "
        "set, as published. White-box: the worst-case ensemble on the scored model, on the first "
        f"of the same images. n: images per set. {_sets(measures)} “pub.”: mean ± sd of the "
        f"report's {SOURCE_SETS} sets; it calls fooled misclassified and null unclassified.",
        _spread(measures),
    )


def accuracy_table(measures: Measures) -> Table:
    """Clean outcomes with the values read off the report's bar plot."""
    rows = []
    for model in measures.models:
        accuracy = measures.find(model, CLEAN, "correct")
        published = None if accuracy is None else accuracy.published
        about = None if published is None else f"about {percent(published, 1)}"
        others = (measures.find(model, CLEAN, outcome) for outcome in ("null", "fooled"))
        rows.append([Cell(model), value_cell(accuracy, about), *map(value_cell, others)])
    n = f"%, {_n(measures, CLEAN)}"
    return Table(
        "Clean test images, measured and published",
        [Cell("model"), Cell("correct", n), Cell("null", n), Cell("fooled", n)],
        rows,
        f"No attack, {_sets(measures)} “pub.”: read off the report's bar plot, to about 0.1 points "
        "(a mean for base, medians for the others).",
        _spread(measures),
    )


def landmark_table(measures: Measures) -> Table | None:
    """Points of the curves against ε that the report's plot or text gives."""
    rows = []
    for models, outcome, eps, published in LANDMARKS:
        for measure in measures.find_all(models, TRANSFER, outcome, eps):
            name = f"{measure.model}: {outcome} at ε {eps_text(eps)}"
            rows.append([Cell(name), value_cell(measure, "", 1), Cell(published)])
    if not rows:
        return None
    return Table(
        "Points of the curves against ε",
        [Cell("rate"), Cell("measured", f"%, {_n(measures, TRANSFER)}"), Cell("the report", "%")],
        rows,
        f"FGSM on {BASE} of the same set, transferred; the same ε (L∞, pixel units) for all "
        f"images; n: images per set. {_sets(measures)} The report's values are read off its "
        "curves; they get no verdict.",
        _spread(measures),
    )


def selection_table(
    run: Run, measures: Measures, kept: Sequence[tuple[str, dict[str, int]]]
) -> Table:
    """Rates under the first selection, those under the others below."""
    first, *rest = measures.selections
    others = [measures_of(run, selection) for selection in rest]
    rows = []
    for model in measures.models:
        row = [Cell(model)]
        for attack, outcome, eps in SELECTED:
            digits = 2 if attack == CLEAN else 1
            found = on_common_seeds(
                [m.find(model, attack, outcome, eps) for m in (measures, *others)]
            )
            texts = [with_spread(measure, digits) for measure in found]
            small = [f"{name} {text}" for name, text in zip(rest, texts[1:], strict=True)]
            row.append(Cell(texts[0], "; ".join(small)))
        of = [epochs for name, epochs in kept if name == model and {first, *rest} <= set(epochs)]
        medians = {
            s: f"{statistics.median(e[s] for e in of):g}" if of else "–" for s in (first, *rest)
        }
        small = [f"{selection} {medians[selection]}" for selection in rest if of]
        same = sum(len({epochs[s] for s in (first, *rest)}) == 1 for epochs in of)
        row += [Cell(medians[first], "; ".join(small)), Cell(f"{same} of {len(of)}" if of else "–")]
        rows.append(row)
    return Table(
        f"Selected on {first} images; below: on {' and '.join(f'{name} images' for name in rest)}",
        [
            Cell("model"),
            Cell("accuracy", f"clean, %, {_n(measures, CLEAN)}"),
            *(
                Cell(outcome, f"at threshold, %, {_n(measures, TRANSFER_AT_THRESHOLD)}")
                for outcome in OUTCOMES
            ),
            Cell("epoch kept", "median"),
            Cell("same epoch", "trainings"),
        ],
        rows,
        f"At threshold: FGSM on {BASE} of the same set and selection, transferred; each image at "
        f"its own threshold (L∞, pixel units); n: images per set. {measures.seeds_text('set')}, "
        f"those with both selections{'; mean ± sd' if len(measures.seeds) > 1 else ''}.",
    )


def summary_table(measures: Measures) -> Table:
    """Rates at threshold for the terminal, measured and published."""
    verdicts = {
        "scores": [m.verdict for m in scores(measures) if m.verdict and m.model != BASE],
        "accuracies": [m.verdict for m in accuracies(measures) if m.verdict],
    }
    counts = ", ".join(f"{v.count('within')} of {len(v)} {what}" for what, v in verdicts.items())
    rows = []
    for model in measures.models:
        found = [at_threshold(measures, model, word) for word in ("correct", "null", "fooled")]
        known = [measure for measure in found if measure is not None]
        marks = {measure.verdict for measure in known}
        mark = "" if "" in marks or not marks else "outside" if "outside" in marks else "within"
        accuracy = measures.find(model, CLEAN, "correct")
        published = [percent(m.published, 1) for m in known if m.published is not None]
        white_box = at_threshold(measures, model, "fooled", WHITE_BOX_AT_THRESHOLD)
        texts = [
            model,
            "–" if accuracy is None else percent(accuracy.mean),
            "/".join(percent(m.mean, 1) for m in known) or "–",
            "/".join(published) or "–",
            MARKS[mark],
            "–" if white_box is None else percent(white_box.mean, 1),
        ]
        rows.append([Cell(text) for text in texts])
    names = {CLEAN: "clean", TRANSFER_AT_THRESHOLD: "transfer", WHITE_BOX_AT_THRESHOLD: "white-box"}
    images = ", ".join(f"{name} {_n(measures, attack)}" for attack, name in names.items())
    headings = ("model", "clean", "transfer c/n/f", "published c/n/f", "", "white-box fooled")
    return Table(
        f"Measured and published: reproduced {counts}",
        [Cell(heading) for heading in headings],
        rows,
        f"%, {measures.seeds_text('set')}; per set {images}. c/n/f: correct, null, fooled at the "
        f"thresholds of {BASE}",
    )


def scores_csv(measures: Measures) -> bytes:
    """The report's ``table_scores.csv``: scores at threshold, as shares."""
    lines: list[dict[str, Any]] = []
    for measure in scores(measures):
        mean, sd = AT_THRESHOLD.get(measure.model, {}).get(measure.name, (None, None))
        verdict = {"within": "yes", "outside": "no", "": "-"}[measure.verdict]
        lines.append(
            {
                "model": measure.model,
                "outcome": measure.name,
                "mean": measure.mean,
                "sd": measure.sd,
                "num_sets": len(measure.values),
                "num_images": measure.num_images,
                "published_mean": mean,
                "published_sd": sd,
                "within_2_sd": verdict,
            }
        )
    columns = ["model", "outcome", "mean", "sd", "num_sets", "num_images"]
    columns += ["published_mean", "published_sd", "within_2_sd"]
    content = StringIO()
    pd.DataFrame(lines, columns=columns).to_csv(
        content, index=False, float_format="%.7g", lineterminator="\n"
    )
    return content.getvalue().encode()
