"""Tables of the study ``fgsm-null``: measured and published values, FGSM images not detected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from nullclass.report.blocks import Cell, Table
from nullclass.report.formatting import FGSM, eps_text, loss_text, percent, value_cell
from nullclass.report.measures import Measure, Measures
from nullclass.report.render import MARKS
from nullclass.report.tables import make_table
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN
from nullclass.studies.fgsm_null.config import PIXEL, PUBLISHED_CLEAN
from nullclass.studies.fgsm_null.loop import loop_figure, rule

METRICS = {
    "correct": "accuracy",
    "not_null": "not null",
    "null": "null rate",
    "loss": "loss",
    "null_loss": "null loss",
}
"""Published metrics, in the order of tables."""


def compared(measures: Measures) -> list[Measure]:
    """Measures with a published value: by model, clean images first, ε descending."""
    models, metrics = measures.models, list(METRICS)
    return sorted(
        (measure for measure in measures.all if measure.published is not None),
        key=lambda m: (models.index(m.model), m.attack != CLEAN, metrics.index(m.name), -m.eps),
    )


def reproduced(found: Sequence[Measure], *, are_rates: bool) -> tuple[int, int]:
    """Number of published rates, or losses, that are reproduced, and of those with a verdict."""
    verdicts = [m.verdict for m in found if m.verdict and m.is_rate == are_rates]
    return verdicts.count("within"), len(verdicts)


def better_text(found: Sequence[Measure]) -> str:
    """How many clean accuracies are no reproductions because they are above the loop's."""
    above = 0
    for measure in found:
        loop = loop_figure(measure)
        is_accuracy = measure.attack == CLEAN and measure.name == "correct"
        if is_accuracy and measure.verdict == "outside" and loop is not None:
            above += measure.mean > loop.mean
    return f" ({above} clean accurac{'y is' if above == 1 else 'ies are'} better)" * bool(above)


def name_of(measure: Measure) -> str:
    """Metric and budget, in the notebook's units."""
    metric = METRICS[measure.name]
    if measure.attack == CLEAN:
        return f"clean {metric}"
    return f"{metric} at ε {eps_text(measure.eps / PIXEL)}"


def value_text(measure: Measure) -> str:
    """Mean ± sd over seeds."""
    cell = value_cell(measure)
    return f"{cell.text} {cell.small}" if cell.small.startswith("±") else cell.text


def published_text(measure: Measure) -> str:
    """The notebook's value, or the range of its values."""
    known: Any = measure.published
    if measure.attack == CLEAN:
        known = PUBLISHED_CLEAN.get(measure.model, {}).get(measure.name, known)
    values = known if isinstance(known, tuple) else (known,)
    return " to ".join(map(percent if measure.is_rate else loss_text, values))


def loop_text(measure: Measure) -> str:
    """The figure of the notebook's loop: mean ± sd over its seeds."""
    figure = loop_figure(measure)
    return "" if figure is None else value_text(figure)


def compared_cell(measure: Measure | None) -> Cell:
    """A measure with the notebook's value and that of its loop."""
    if measure is None or measure.published is None:
        return value_cell(measure)
    loop = loop_text(measure)
    return value_cell(measure, published_text(measure) + f", loop {loop}" * bool(loop))


def eps_heading(eps: float) -> Cell:
    """ε in the notebook's units, pixel units below."""
    return Cell(f"ε {eps_text(eps / PIXEL)}", f"{eps_text(eps)} px")


def clean_table(measures: Measures) -> Table:
    """Clean accuracy, share not null and loss, with the published values."""
    rows = [
        [
            model,
            compared_cell(measures.find(model, CLEAN, "correct")),
            compared_cell(
                measures.find(model, CLEAN, "not_null") if measures.has_null(model) else None
            ),
            compared_cell(measures.find(model, CLEAN, "loss")),
        ]
        for model in measures.models
    ]
    return make_table(
        "Clean images, measured and published",
        ["model", ("accuracy", "%"), ("not null", "%"), "loss"],
        rows,
        f"{measures.num_images(CLEAN)} test images, {measures.seeds_text()}. "
        f"{measures.spread_note()} “pub.”: the notebook's value, from one run each; null-0.5 has "
        "two.",
    )


def fgsm_table(measures: Measures, metric: str) -> Table:
    """Null rate or null loss under FGSM at every test ε, with the published values."""
    budgets = measures.budgets(FGSM)[::-1]
    what = "Null rate of FGSM images, %" if metric == "null" else "Null loss on FGSM images"
    is_interval = metric == "null" or len(measures.seeds) > 1
    rows = [
        [model, *(compared_cell(measures.find(model, FGSM, metric, eps)) for eps in budgets)]
        for model in filter(measures.has_null, measures.models)
        if budgets
    ]
    return make_table(
        f"{what}, measured and published",
        ["model", *map(eps_heading, budgets)],
        rows,
        f"FGSM on the model itself, {measures.num_images(FGSM)} test images, "
        f"{measures.seeds_text()}; ε in the notebook's units, pixel units (px) below.",
        measures.spread_note() if is_interval else "Mean over the images.",
    )


def undetected(run: Run) -> pd.DataFrame:
    """Counts of FGSM images that are neither null nor correct.

    Returns:
        Columns model, eps_pixels, num_images, num_fooled and num_turned (fooled, and correct when
        clean), summed over seeds.
    """
    tables = []
    for trial in run.trials:
        clean = trial.rows[trial.rows["attack"] == CLEAN].set_index("image")["outcome"]
        attacked = trial.rows[trial.rows["attack"] == FGSM]
        is_fooled = attacked["outcome"] == "fooled"
        was_correct = attacked["image"].map(clean) == "correct"
        tables.append(
            attacked[["eps_pixels"]].assign(
                model=trial.model,
                num_images=1,
                num_fooled=is_fooled,
                num_turned=is_fooled & was_correct,
            )
        )
    keys, columns = ["model", "eps_pixels"], ["num_images", "num_fooled", "num_turned"]
    rows = pd.concat(tables) if tables else pd.DataFrame(columns=[*keys, *columns])
    return rows.groupby(keys, as_index=False, sort=False)[columns].sum()


def undetected_table(measures: Measures, counts: pd.DataFrame) -> Table:
    """FGSM images that are neither null nor correct, by model and ε, over all seeds."""
    budgets = measures.budgets(FGSM)[::-1]
    cells = {
        (model, round(eps, 6)): (f"{fooled:,}", f"{turned:,} turned")
        for model, eps, _, fooled, turned in counts.itertuples(index=False)
    }
    rows = [
        [model, *(cells.get((model, round(eps, 6))) for eps in budgets)]
        for model in measures.models
        if cells
    ]
    return make_table(
        "FGSM images that are neither null nor correct",
        ["model", *map(eps_heading, budgets)],
        rows,
        f"Number of images, out of {counts['num_images'].max() if len(counts) else 0:,} in each "
        f"cell: {measures.num_images(FGSM)} test images, {measures.seeds_text()}. “Turned”: "
        "correct when clean. ε in the notebook's units, pixel units (px) below.",
    )


def published_table(measures: Measures) -> Table:
    """Measured and published rates, one per row, for the terminal."""
    found = compared(measures)
    within, num = reproduced(found, are_rates=True)
    rows = []
    for measure in filter(lambda measure: measure.is_rate, found):
        published = published_text(measure).replace(" to ", "–")  # 80 columns are few
        figures = (value_text(measure), published, loop_text(measure).replace(" ", ""))
        rows.append([measure.model, name_of(measure), *figures, MARKS[measure.verdict]])
    return make_table(
        f"Measured and published: {within} of {num} rates reproduced{better_text(found)}",
        ["model", "figure", "measured", "published", "loop", ""],
        rows,
        f"Rates in %, {measures.seeds_text()}, {measures.num_images(CLEAN)} clean images and "
        f"{measures.num_images(FGSM)} for FGSM; ε in the notebook's units. {rule()}",
    )
