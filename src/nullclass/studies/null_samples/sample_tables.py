"""Tables of the study ``null-samples``: its scores beside ours, other selections, the white box."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

import pandas as pd

from nullclass.core.errors import UserError
from nullclass.core.files import read_json
from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Cell, Table
from nullclass.report.measures import (
    OWN_BUDGET,
    Measure,
    Measures,
    eps_text,
    on_common_seeds,
    percent,
    value_cell,
)
from nullclass.results.schema import CLEAN, RESULT
from nullclass.results.store import Run
from nullclass.studies.null_samples.config import (
    AT_THRESHOLD,
    BASE,
    TRANSFER,
    TRANSFER_AT_THRESHOLD,
    WHITE_BOX_AT_THRESHOLD,
)
from nullclass.studies.null_samples.figures.scores_at_threshold import OUTCOMES

READ_OFF = 0.0015
"""Tolerance of a rate read off a plot: 0.15 points."""
LAST_DIGIT = 0.0005
"""Half of the last digit of a published rate with one decimal in percent."""
SOURCE_SETS = 30
"""Sets behind the published figures."""

SELECTED = (
    (CLEAN, "correct", 0.0),
    *((TRANSFER_AT_THRESHOLD, outcome, OWN_BUDGET) for outcome in OUTCOMES),
)
"""Attack, outcome and eps of what is compared between selections."""

LANDMARKS = (
    (("base",), "fooled", 0.5, "about 90"),
    (("base",), "fooled", 1.0, "about 90"),
    (("m", "um"), "null", 0.08, "nearly all"),
    (("m", "um"), "fooled", 0.8, "about 85"),
    (("sm", "usm"), "null", 0.2, "nearly all"),
    (("sm", "usm"), "null", 1.0, "nearly all"),
)
"""What the source's curves show, as far as it can be read off: models, outcome, eps, percent."""


def source_spread(measure: Measure) -> float | None:
    """Two standard deviations of the source's sets, at least its last digit.

    :data:`READ_OFF` for a clean accuracy, which is read off a plot.
    """
    if measure.attack == CLEAN:
        return READ_OFF
    found = AT_THRESHOLD.get(measure.model, {}).get(measure.name)
    return None if found is None else max(2 * found[1], LAST_DIGIT)


def measures_of(run: Run, selection: str | None = None) -> Measures:
    """Measures of a run, judged by :func:`source_spread`."""
    return Measures(run, selection, source_spread)


@dataclass(frozen=True)
class Kept:
    """Which epoch a training kept, by selection."""

    model: str
    epochs: dict[str, int]


def kept_epochs(run: Run, measures: Measures) -> list[Kept]:
    """One line a training, as far as the trainings' folders say."""
    found = []
    for trial in run.trials:
        place = trial.result.get("trained_in")
        if trial.selection != measures.selection or not place:
            continue
        try:
            told = read_json(run.folder / str(place) / RESULT, "result of a training")
        except UserError:  # the trial is whole without it
            continue
        epochs = told.get("epochs")
        if isinstance(epochs, dict):
            found.append(Kept(trial.model, {str(k): int(v) for k, v in epochs.items()}))
    return found


def scores_csv(measures: Measures) -> bytes:
    """The source's ``table_scores.csv``: scores at threshold, in shares."""
    lines = []
    for model in measures.models:
        for outcome in OUTCOMES:
            measure = at_threshold(measures, model, outcome)
            if measure is None:
                continue
            mean, sd = AT_THRESHOLD.get(model, {}).get(outcome, (None, None))
            lines.append(
                {
                    "model": model,
                    "outcome": outcome,
                    "mean": measure.mean,
                    "sd": measure.sd,
                    "num_sets": len(measure.values),
                    "published_mean": mean,
                    "published_sd": sd,
                    "within_2_sd": {"within": "yes", "outside": "no"}.get(measure.verdict, ""),
                }
            )
    columns = ["model", "outcome", "mean", "sd", "num_sets", "published_mean", "published_sd"]
    content = StringIO()
    pd.DataFrame(lines, columns=[*columns, "within_2_sd"]).to_csv(
        content, index=False, float_format="%.7g", lineterminator="\n"
    )
    return content.getvalue().encode()


def at_threshold(measures: Measures, model: str, outcome: str) -> Measure | None:
    """A score of the transferred attack at each image's own threshold."""
    return measures.find(model, TRANSFER_AT_THRESHOLD, outcome, OWN_BUDGET)


def white_box(measures: Measures, model: str, outcome: str) -> Measure | None:
    """The same of the worst-case ensemble on the model itself."""
    return measures.find(model, WHITE_BOX_AT_THRESHOLD, outcome, OWN_BUDGET)


def scores(measures: Measures) -> list[Measure]:
    """All scores at threshold, by model."""
    found = [at_threshold(measures, m, word) for m in measures.models for word in OUTCOMES]
    return [measure for measure in found if measure is not None]


def accuracies(measures: Measures) -> list[Measure]:
    """Clean accuracies, by model."""
    found = [measures.find(model, CLEAN, "correct") for model in measures.models]
    return [measure for measure in found if measure is not None]


def threshold_table(measures: Measures) -> Table:
    """The published table, ours in it."""
    rows = []
    for model in measures.models:
        cells = [
            value_cell(at_threshold(measures, model, outcome), published_text(model, outcome), 1)
            for outcome in OUTCOMES
        ]
        rows.append([Cell(model), *cells])
    return Table(
        "Scores at threshold, measured and published",
        [Cell("model"), *(Cell(word, "%") for word in OUTCOMES.values())],
        rows,
        f"FGSM made on {BASE} of the same set and transferred, each image at its own threshold "
        f"(L∞, pixel units), {num_images(measures, TRANSFER_AT_THRESHOLD)} images a set, "
        f"{measures.seeds_text('set')}, selected on {measures.selection} images. "
        f"{_spread(measures)} After “pub.”: the source's mean ± sd over {SOURCE_SETS} sets.",
    )


def accuracy_table(measures: Measures) -> Table:
    """Clean outcomes beside what can be read off the source's bar plot."""
    rows = []
    for model in measures.models:
        accuracy = measures.find(model, CLEAN, "correct")
        published = None if accuracy is None else accuracy.published
        about = None if published is None else f"about {percent(published, 1)}"
        others = (measures.find(model, CLEAN, word) for word in ("null", "fooled"))
        rows.append([Cell(model), value_cell(accuracy, about), *map(value_cell, others)])
    return Table(
        "Clean test images, measured and published",
        [Cell("model"), Cell("correct", "%"), Cell("null", "%"), Cell("fooled", "%")],
        rows,
        f"No attack, {num_images(measures, CLEAN)} test images, {measures.seeds_text('set')}, "
        f"selected on {measures.selection} images. {_spread(measures)} After “pub.”: read off the "
        "source's bar plot, to about 0.1 points (a mean for base, medians for the others).",
    )


def landmarks(measures: Measures) -> list[tuple[Measure, str]]:
    """What there is at the :data:`LANDMARKS`, with the source's word for it."""
    found = [
        (measures.find(model, TRANSFER, outcome, eps), told)
        for models, outcome, eps, told in LANDMARKS
        for model in models
    ]
    return [(measure, told) for measure, told in found if measure is not None]


def landmark_table(measures: Measures) -> Table:
    """Where the source's curves have a feature that its text or plot lets one put into words."""
    rows = [
        [
            Cell(f"{measure.model}: {measure.name} at ε {eps_text(measure.eps)}"),
            value_cell(measure, "", 1),
            Cell(told),
        ]
        for measure, told in landmarks(measures)
    ]
    return Table(
        "Points of the curves against ε",
        [Cell("share"), Cell("measured", "%"), Cell("the source's plot", "%")],
        rows,
        f"FGSM made on {BASE} of the same set and transferred, ε (L∞, pixel units) the same for "
        f"all images, {num_images(measures, TRANSFER)} images a set, "
        f"{measures.seeds_text('set')}. {_spread(measures)} The source's figures are read off its "
        "curves; they are not judged.",
    )


def white_box_at_threshold_table(measures: Measures) -> Table:
    """The transferred attack as published, and the worst-case ensemble on each model."""
    words = ("correct", "null", "fooled")
    rows = []
    for model in measures.models:
        transferred = [value_cell(at_threshold(measures, model, w), "", 1) for w in words]
        own = [value_cell(white_box(measures, model, w), "", 1) for w in words]
        cells = (Cell(cell.text, cell.small) for cell in (*transferred, *own))
        rows.append([Cell(model), *cells])
    counts = {
        "transfer": num_images(measures, TRANSFER_AT_THRESHOLD),
        "white-box": num_images(measures, WHITE_BOX_AT_THRESHOLD),
    }
    return Table(
        "At the same thresholds: transferred and white-box",
        [
            Cell("model"),
            *(Cell(word, f"{kind}, n {n}") for kind, n in counts.items() for word in words),
        ],
        rows,
        f"%, each image at its own threshold (L∞, pixel units). Transfer: FGSM made on {BASE} of "
        f"the same set, {counts['transfer']} images a set, as published. White-box: the "
        "worst-case ensemble made on the model that is scored, the first "
        f"{counts['white-box']} of the same images. {measures.seeds_text('set')}, selected on "
        f"{measures.selection} images. {_spread(measures)}",
    )


def selection_table(run: Run, measures: Measures, kept: list[Kept]) -> Table:
    """Each score under the first selection, the others' below it."""
    others = [measures_of(run, selection) for selection in measures.selections[1:]]
    rows = []
    for model in measures.models:
        row = [Cell(model)]
        for attack, outcome, eps in SELECTED:
            of = on_common_seeds([m.find(model, attack, outcome, eps) for m in (measures, *others)])
            digits = 2 if attack == CLEAN else 1
            first, *rest = (with_spread(measure, digits) for measure in of)
            small = "; ".join(f"{m.selection} {told}" for m, told in zip(others, rest, strict=True))
            row.append(Cell(first, small))
        row += _epoch_cells(model, measures.selections, kept)
        rows.append(row)
    return Table(
        f"Selected on {measures.selection} images, and below on {' and '.join(_rest(measures))}",
        [
            Cell("model"),
            Cell("accuracy", "clean, %"),
            *(Cell(word, "at threshold, %") for word in ("correct", "fooled", "null")),
            Cell("epoch kept", "median"),
            Cell("same epoch", "trainings"),
        ],
        rows,
        f"Clean: no attack, {num_images(measures, CLEAN)} test images. At threshold: FGSM made on "
        f"{BASE} of the same set and selection and transferred, each image at its own threshold "
        f"(L∞, pixel units), {num_images(measures, TRANSFER_AT_THRESHOLD)} images a set. "
        f"Of {measures.seeds_text('set')} those that have both selections"
        f"{'; mean ± sd over them' if len(measures.seeds) > 1 else ''}.",
    )


def _epoch_cells(model: str, selections: Sequence[str], kept: list[Kept]) -> list[Cell]:
    of = [k.epochs for k in kept if k.model == model and set(selections) <= set(k.epochs)]
    if not of:
        return [Cell("–"), Cell("–")]
    first, *rest = (f"{statistics.median(e[s] for e in of):g}" for s in selections)
    small = "; ".join(f"{s} {told}" for s, told in zip(selections[1:], rest, strict=True))
    same = sum(len({epochs[s] for s in selections}) == 1 for epochs in of)
    return [Cell(first, small), Cell(f"{same} of {len(of)}")]


def _rest(measures: Measures) -> list[str]:
    return [f"{name} images" for name in measures.selections[1:]]


def published_text(model: str, outcome: str) -> str | None:
    """A published score as the source gives it: mean ± sd in percent."""
    found = AT_THRESHOLD.get(model, {}).get(outcome)
    return None if found is None else f"{percent(found[0], 1)} ± {percent(found[1], 1)}"


def with_spread(measure: Measure | None, digits: int = 1) -> str:
    """Mean, and sd where there is one, in percent without the sign."""
    if measure is None:
        return "–"
    spread = f" ± {percent(measure.sd, digits)}" if len(measure.values) > 1 else ""
    return percent(measure.mean, digits) + spread


def num_images(measures: Measures, attack: str) -> str:
    """How many images a set an attack saw, as it is written."""
    return measures.num_images(attack) if measures.budgets(attack) else "no"


def _spread(measures: Measures) -> str:
    interval = "its 95 % Wilson interval over the images"
    if len(measures.seeds) == 1:
        return f"Below each share: {interval}."
    lone = any(len(measure.values) == 1 for measure in measures.all)
    return f"Mean ± sd over sets{f'; below a share of one set {interval}' if lone else ''}."


def rule() -> str:
    """When a published figure counts as reproduced."""
    return (
        "A published score at threshold counts as reproduced (✓) if it is within 2 of the source's "
        f"own sd ({SOURCE_SETS} sets) of our mean, or equal to the published digits where that sd "
        f"is 0; a test accuracy, read off a plot, if it is within {percent(READ_OFF)} points."
    )


def which_images(measures: Measures) -> str:
    """What AER and RAR are shares of."""
    return (
        "AER and RAR are over these attacked images, not over all test images: each set's first "
        f"{num_images(measures, UNION)} that {BASE} gets right when clean and FGSM on "
        f"{BASE} gets wrong. They count the transferred attack too."
    )
