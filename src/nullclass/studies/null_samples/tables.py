"""Tables of the study ``null-samples``: published scores, other selections, white-box attacks."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.report.blocks import Cell, Mark, Table
from nullclass.report.formatting import eps_text, percent, signed, spread_text, value_cell
from nullclass.report.measures import (
    OWN_BUDGET,
    Band,
    Measure,
    Measures,
    around,
    on_common_seeds,
)
from nullclass.report.render import MARKS
from nullclass.report.tables import make_table
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN
from nullclass.studies.null_samples.config import (
    AT_THRESHOLD,
    BASE,
    EFFORTS,
    TRANSFER,
    TRANSFER_AT_THRESHOLD,
    WHITE_BOX_AT_THRESHOLD,
)
from nullclass.training.recipes import FAITHFUL

READ_OFF = 0.0015
"""Tolerance of a rate that is read off a plot: 0.15 points."""
LAST_DIGIT = 0.0005
"""Half of the last digit of a published rate with one decimal in percent."""
SOURCE_SETS = 30
"""Number of sets behind the published scores."""

WORDS = {
    "correct": "correct",
    "fooled": "misclassified (fooled)",
    "null": "unclassified (null)",
}
"""Outcomes in the report's words and order."""

SELECTED = (
    (CLEAN, "correct", 0.0),
    *((TRANSFER_AT_THRESHOLD, outcome, OWN_BUDGET) for outcome in WORDS),
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


def source_spread(measure: Measure) -> Band | None:
    """Two standard deviations of the report's sets, at least the last published digit.

    :data:`READ_OFF` for a clean accuracy, which is read off a plot.
    """
    if measure.attack == CLEAN:
        return around(measure.published, READ_OFF)
    published = AT_THRESHOLD.get(measure.model, {}).get(measure.name)
    if published is None:
        return None
    return around(measure.published, max(2 * published[1], LAST_DIGIT))


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
    found = (at_threshold(measures, model, word) for model in measures.models for word in WORDS)
    return [measure for measure in found if measure is not None]


def accuracies(measures: Measures) -> list[Measure]:
    """Clean accuracies."""
    return measures.find_all(measures.models, CLEAN, "correct")


def kept_epochs(measures: Measures) -> pd.DataFrame:
    """Epochs kept by each selection: columns model and the selections.

    One row per training whose record is still in the run folder.
    """
    found = []
    for trial in measures.run.trials:
        if trial.selection == measures.selection:
            found.append({"model": trial.model, **trial.epochs})
    return pd.DataFrame(found).reindex(columns=["model", *measures.selections]).dropna()


def published_text(model: str, outcome: str) -> str | None:
    """A published score as in the report: mean ± sd in percent."""
    published = AT_THRESHOLD.get(model, {}).get(outcome)
    return None if published is None else " ± ".join(percent(value, 1) for value in published)


def standard_errors(measure: Measure) -> float | None:
    """Distance of our mean from the published one, in standard errors of the difference.

    The standard error is sqrt(sd^2 / sets + published sd^2 / :data:`SOURCE_SETS`). ``None`` with
    one set and for rates without a published sd; 0 for means that are equal to the last published
    digit.
    """
    published = AT_THRESHOLD.get(measure.model, {}).get(measure.name)
    if published is None or len(measure.values) < 2:
        return None
    mean, sd = published
    if abs(measure.mean - mean) <= LAST_DIGIT:
        return 0.0
    variance = measure.sd**2 / len(measure.values) + sd**2 / SOURCE_SETS
    return (measure.mean - mean) / math.sqrt(variance) if variance else math.inf


def within_errors(measures: Measures) -> tuple[int, int]:
    """Number of scores within 2 standard errors of the published mean, and of those compared.

    Those of base are left out: at its own thresholds it is fooled by construction.
    """
    found = map(standard_errors, (m for m in scores(measures) if m.model != BASE))
    distances = [distance for distance in found if distance is not None]
    return sum(abs(distance) <= 2 for distance in distances), len(distances)


def training_differences(run: Run) -> dict[str, str | None]:
    """The recipe and the null images of a run where they are not the report's, as texts by name.

    Raises:
        UserError: If ``run.json`` does not record them.
    """
    published, theirs = json_values(FAITHFUL["report"]), EFFORTS["source"].null_share
    recipe, share = dict(published), theirs
    try:
        for training in run.info.settings.trainings.values():
            recipe |= training["recipe"]
            share = training["nulls"]["replace_rate"] if training["nulls"] else share
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{run.folder} does not record how its models were trained") from None
    changed = [
        f"{name.replace('_', ' ')} {_setting(recipe[name])} ({_setting(value)})"
        for name, value in published.items()
        if recipe[name] != value
    ]
    return {
        "recipe": ", ".join(changed) or None,
        "shares": None
        if share == theirs
        else f"{_setting(share)} of a batch on average ({_setting(theirs)})",
    }


def _setting(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def rule() -> str:
    """When a published rate counts as reproduced."""
    return (
        "A published score at threshold counts as reproduced (✓) if it is within 2 of the report's "
        f"own sd ({SOURCE_SETS} sets) of our mean, or equal to the published digits where that sd "
        f"is 0; a test accuracy, read off a plot, if it is within {percent(READ_OFF)} points."
    )


def sets_text(measures: Measures) -> str:
    """Number of sets and, where there is a choice, the images that the models were selected on."""
    sets = measures.seeds_text("set")
    if len(measures.selections) < 2:  # the last epoch was the only candidate
        return sets
    return f"{sets}, models selected on {measures.selection} images"


def _n(measures: Measures, attack: str) -> str:
    return f"n {measures.num_images(attack)}"


def threshold_table(measures: Measures) -> Table:
    """Outcomes at the thresholds: transferred with the published values, and white-box."""
    attacks = {TRANSFER_AT_THRESHOLD: "transfer", WHITE_BOX_AT_THRESHOLD: "white-box"}
    known = [attack for attack in attacks if measures.budgets(attack)]
    columns = [(attack, outcome) for attack in known for outcome in WORDS]
    rows = []
    for model in measures.models:
        row: list[Any] = [model]
        for attack, outcome in columns:
            published = published_text(model, outcome) if attack == TRANSFER_AT_THRESHOLD else ""
            row.append(value_cell(at_threshold(measures, model, outcome, attack), published, 1))
        rows.append(row)
    return make_table(
        "Scores at threshold, measured and published",
        ["model", *((o, f"{attacks[a]}, %, {_n(measures, a)}") for a, o in columns)],
        rows,
        f"Each image at its own threshold (L∞, pixel units). Transfer: FGSM on {BASE} of the same "
        "set, as published. White-box: the worst-case ensemble on the scored model, on the first "
        f"of the same images. n: images per set. {sets_text(measures)}. “pub.”: mean ± sd of the "
        f"report's {SOURCE_SETS} sets; it calls fooled misclassified and null unclassified.",
        measures.spread_note("set"),
    )


def difference_table(measures: Measures) -> Table:
    """Distances of our means from the published ones, in points and standard errors."""
    rows = []
    for model in measures.models:
        row: list[Any] = [model]
        for outcome in WORDS:
            measure = at_threshold(measures, model, outcome)
            distance = None if measure is None else standard_errors(measure)
            if measure is None or measure.published is None or distance is None:
                row.append("–")
                continue
            points = signed(100 * (measure.mean - measure.published), 1)
            mark: Mark = "within" if abs(distance) <= 2 else "outside"
            row.append(Cell(points, f"{signed(distance, 1)} SE", mark=mark))
        rows.append(row)
    if not within_errors(measures)[1]:
        rows = []
    return make_table(
        "Differences between our means and the report's",
        ["model", *((outcome, "points") for outcome in WORDS)],
        rows,
        "Scores at threshold, transferred FGSM, ours minus the report's. SE: standard errors of "
        f"the difference of two means, sqrt(sd² / {len(measures.seeds)} + published sd² / "
        f"{SOURCE_SETS}); ✓ within 2. This is a stricter test than 2 sd: it asks whether the two "
        "trainings have the same mean, not whether one of our sets could be one of theirs. Test "
        "accuracies have no published sd.",
    )


def accuracy_table(measures: Measures) -> Table:
    """Clean outcomes with the values read off the report's bar plot."""
    rows = []
    for model in measures.models:
        accuracy, *others = (measures.find(model, CLEAN, o) for o in ("correct", "null", "fooled"))
        published = accuracy and accuracy.published
        about = f"about {percent(published, 1)}" if published else None
        rows.append([model, value_cell(accuracy, about), *others])
    n = f"%, {_n(measures, CLEAN)}"
    return make_table(
        "Clean test images, measured and published",
        ["model", ("correct", n), ("null", n), ("fooled", n)],
        rows,
        f"No attack, {sets_text(measures)}. “pub.”: read off the report's bar plot, to about 0.1 "
        "points (a mean for base, medians for the others).",
        measures.spread_note("set"),
    )


def landmark_table(measures: Measures) -> Table:
    """Points of the curves against ε that the report's plot or text gives."""
    rows = [
        [f"{m.model}: {outcome} at ε {eps_text(eps)}", value_cell(m, "", 1), published]
        for models, outcome, eps, published in LANDMARKS
        for m in measures.find_all(models, TRANSFER, outcome, eps)
    ]
    return make_table(
        "Points of the curves against ε",
        ["rate", ("measured", f"%, {_n(measures, TRANSFER)}"), ("the report", "%")],
        rows,
        f"FGSM on {BASE} of the same set, transferred; the same ε (L∞, pixel units) for all "
        f"images; n: images per set. {sets_text(measures)}. The report's values are read off its "
        "curves; they get no verdict.",
        measures.spread_note("set"),
    )


def selection_table(measures: Measures, kept: pd.DataFrame) -> Table:
    """Rates under the first selection, and below under the second.

    Args:
        measures: Of the first selection.
        kept: From :func:`kept_epochs`.
    """
    first, second = measures.selections
    other = measures_of(measures.run, second)
    rows = []
    for model in measures.models:
        row: list[Any] = [model]
        for attack, outcome, eps in SELECTED:
            pair = [m.find(model, attack, outcome, eps) for m in (measures, other)]
            digits = 2 if attack == CLEAN else 1
            one, two = (
                "–" if measure is None else spread_text(measure.mean, measure.sd, digits)
                for measure in on_common_seeds(pair)
            )
            row.append((one, f"{second} {two}"))
        epochs = kept[kept["model"] == model]
        medians = epochs[[first, second]].median()
        same = (epochs[first] == epochs[second]).sum()
        row += [
            (f"{medians[first]:g}", f"{second} {medians[second]:g}"),
            f"{same} of {len(epochs)}",
        ]
        rows.append(row)
    at_threshold = f"at threshold, %, {_n(measures, TRANSFER_AT_THRESHOLD)}"
    return make_table(
        f"Selected on {first} images; below: on {second} images",
        [
            "model",
            ("accuracy", f"clean, %, {_n(measures, CLEAN)}"),
            *((outcome, at_threshold) for outcome in WORDS),
            ("epoch kept", "median"),
            ("same epoch", "trainings"),
        ],
        rows,
        f"At threshold: FGSM on {BASE} of the same set and selection, transferred; each image at "
        f"its own threshold (L∞, pixel units); n: images per set. {measures.seeds_text('set')}, "
        f"those with both selections{'; mean ± sd' if len(measures.seeds) > 1 else ''}.",
    )


def summary_table(measures: Measures) -> Table:
    """Rates at threshold for the terminal, measured and published."""
    judged = {
        "scores": [m for m in scores(measures) if m.verdict and m.model != BASE],
        "accuracies": [m for m in accuracies(measures) if m.verdict],
    }
    counts = (
        f"{sum(m.verdict == 'within' for m in found)} of {len(found)} {what}"
        for what, found in judged.items()
    )
    rows = []
    for model in measures.models:
        found = [at_threshold(measures, model, word) for word in ("correct", "null", "fooled")]
        known = [measure for measure in found if measure is not None]
        verdicts = {measure.verdict for measure in known}
        worst = next((word for word in ("", "outside", "within") if word in verdicts), "")
        published = [percent(m.published, 1) for m in known if m.published is not None]
        white_box = at_threshold(measures, model, "fooled", WHITE_BOX_AT_THRESHOLD)
        rows.append(
            [
                model,
                value_cell(measures.find(model, CLEAN, "correct")).text,
                "/".join(percent(m.mean, 1) for m in known) or "–",
                "/".join(published) or "–",
                MARKS[worst],
                value_cell(white_box, digits=1).text,
            ]
        )
    names = {CLEAN: "clean", TRANSFER_AT_THRESHOLD: "transfer", WHITE_BOX_AT_THRESHOLD: "white-box"}
    images = ", ".join(f"{name} {_n(measures, attack)}" for attack, name in names.items())
    return make_table(
        f"Measured and published: reproduced {', '.join(counts)}",
        ["model", "clean", "transfer c/n/f", "published c/n/f", "", "white-box fooled"],
        rows,
        f"%, {measures.seeds_text('set')}; per set {images}. c/n/f: correct, null, fooled at the "
        f"thresholds of {BASE}",
    )


def scores_csv(measures: Measures) -> bytes:
    """The report's ``table_scores.csv``: scores at threshold, as shares."""
    found = [(m, AT_THRESHOLD[m.model][m.name]) for m in scores(measures)]
    table = pd.DataFrame(
        {
            "model": [m.model for m, _ in found],
            "metric": [m.metric for m, _ in found],
            "mean": [m.mean for m, _ in found],
            "sd": [m.sd for m, _ in found],
            "num_sets": [len(m.values) for m, _ in found],
            "num_images": [m.num_images for m, _ in found],
            "published_mean": [mean for _, (mean, _) in found],
            "published_sd": [sd for _, (_, sd) in found],
            "within_2_sd": ["yes" if m.verdict == "within" else "no" for m, _ in found],
            "standard_errors": [standard_errors(m) for m, _ in found],
        }
    )
    return table.to_csv(index=False, float_format="%.7g", lineterminator="\n").encode()
