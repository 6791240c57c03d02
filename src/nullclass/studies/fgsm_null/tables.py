"""Tables of the study ``fgsm-null``: measured and published values, FGSM images not detected."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from nullclass.report.blocks import Cell, Table
from nullclass.report.formatting import FGSM, eps_text, value_cell
from nullclass.report.measures import Measure, Measures
from nullclass.report.render import MARKS
from nullclass.report.tables import measure_table
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run
from nullclass.studies.fgsm_null.config import PIXEL

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
    order = list(METRICS)
    published = [measure for measure in measures.all if measure.published is not None]
    return sorted(
        published,
        key=lambda m: (
            measures.models.index(m.model),
            m.attack != CLEAN,
            order.index(m.name),
            -m.eps,
        ),
    )


def reproduced(found: Sequence[Measure], *, are_rates: bool) -> tuple[int, int]:
    """Number of published rates, or losses, that are reproduced, and of those with a verdict."""
    verdicts = [m.verdict for m in found if m.verdict and m.is_rate == are_rates]
    return verdicts.count("within"), len(verdicts)


def name_of(measure: Measure) -> str:
    """Metric and budget, in the notebook's units."""
    metric = METRICS[measure.name]
    return (
        f"clean {metric}" if measure.attack == CLEAN else f"{metric} at ε {_notebook(measure.eps)}"
    )


def _notebook(eps: float) -> str:
    return eps_text(eps / PIXEL)


def eps_heading(eps: float) -> Cell:
    """ε in the notebook's units, pixel units below."""
    return Cell(f"ε {_notebook(eps)}", f"{eps_text(eps)} px")


def clean_table(measures: Measures) -> Table:
    """Clean accuracy, share not null and loss, with the published values."""
    rows = []
    for model in measures.models:
        row = [Cell(model)]
        for metric in ("correct", "not_null", "loss"):
            is_shown = metric != "not_null" or measures.has_null(model)
            measure = measures.find(model, CLEAN, metric) if is_shown else None
            row.append(value_cell(measure))
        rows.append(row)
    return Table(
        "Clean images, measured and published",
        [Cell("model"), Cell("accuracy", "%"), Cell("not null", "%"), Cell("loss")],
        rows,
        f"{measures.num_images(CLEAN)} test images, {measures.seeds_text()}. "
        f"{measures.spread_note()} “pub.”: the notebook's value, from one run each. The notebook "
        "ran null-0.5 twice (98.71 and 98.80 %, losses 0.0474 and 0.0481): the middle counts.",
    )


def fgsm_table(measures: Measures, metric: str) -> Table:
    """Null rate or null loss under FGSM at every test ε, with the published values."""
    budgets = measures.budgets(FGSM)[::-1]
    what = "Null rate of FGSM images, %" if metric == "null" else "Null loss on FGSM images"
    return measure_table(
        measures,
        f"{what}, measured and published",
        [Cell("model"), *map(eps_heading, budgets)],
        [
            (model, [(model, FGSM, metric, eps) for eps in budgets])
            for model in measures.models
            if measures.has_null(model)
        ],
        f"FGSM on the model itself, {measures.num_images(FGSM)} test images, "
        f"{measures.seeds_text()}; ε in the notebook's units, pixel units (px) below.",
        spread=None if metric == "null" or len(measures.seeds) > 1 else "Mean over the images.",
    )


def undetected(run: Run) -> pd.DataFrame:
    """Counts of FGSM images that are neither null nor correct.

    Returns:
        Columns model, eps_pixels, num_images, num_fooled and num_turned (fooled, and correct when
        clean), summed over seeds.
    """
    columns = ["model", "eps_pixels", "num_images", "num_fooled", "num_turned"]
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
                num_fooled=is_fooled.astype(int),
                num_turned=(is_fooled & was_correct).astype(int),
            )
        )
    if not tables:
        return pd.DataFrame(columns=columns)
    rows = pd.concat(tables)
    return rows.groupby(columns[:2], as_index=False, sort=False)[columns[2:]].sum()


def undetected_table(measures: Measures, counts: pd.DataFrame) -> Table:
    """FGSM images that are neither null nor correct, by model and ε, over all seeds."""
    budgets = measures.budgets(FGSM)[::-1]
    rows = []
    for model in measures.models:
        row = [Cell(model)]
        for eps in budgets:
            of = counts[(counts["model"] == model) & ((counts["eps_pixels"] - eps).abs() < 1e-6)]
            fooled, turned = int(of["num_fooled"].sum()), int(of["num_turned"].sum())
            row.append(Cell(f"{fooled:,}", f"{turned:,} turned") if len(of) else Cell("–"))
        rows.append(row)
    return Table(
        "FGSM images that are neither null nor correct",
        [Cell("model"), *map(eps_heading, budgets)],
        rows,
        f"Number of images, out of {int(counts['num_images'].max()):,} in each cell: "
        f"{measures.num_images(FGSM)} test images, {measures.seeds_text()}. “Turned”: correct when "
        "clean. ε in the notebook's units, pixel units (px) below.",
    )


def published_table(measures: Measures, found: Sequence[Measure]) -> Table:
    """Measured and published values, one per row."""
    within, num = reproduced(found, are_rates=True)
    rows = []
    for measure in found:
        cell = value_cell(measure)
        spread = f" {cell.small}" if cell.small.startswith("±") else ""
        texts = (measure.model, name_of(measure), cell.text + spread, cell.published)
        rows.append([*map(Cell, texts), Cell(MARKS[cell.mark])])
    return Table(
        f"Measured and published: {within} of {num} rates reproduced",
        [Cell("model"), Cell("figure"), Cell("measured"), Cell("published"), Cell("")],
        rows,
        f"Rates in %, {measures.seeds_text()}, {measures.num_images(CLEAN)} clean images and "
        f"{measures.num_images(FGSM)} for FGSM; ε in the notebook's units.",
    )
