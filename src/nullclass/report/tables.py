"""Measured beside published, and the white-box table."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Cell, Table
from nullclass.report.measures import (
    CLEAN,
    FGSM,
    Measure,
    Measures,
    attack_name,
    eps_text,
    loss_text,
    percent,
    value_cell,
)
from nullclass.results.store import Run

RANGES = {
    ("null-0.5", CLEAN, "correct"): "98.71–98.80",
    ("null-0.5", CLEAN, "loss"): "0.0474–0.0481",
}
"""Figures the notebook prints twice, from two runs; the rows hold their middle."""

NAMES = {"correct": "clean accuracy", "loss": "clean loss", "not_null": "clean not null"}


@dataclass(frozen=True)
class Comparison:
    """Every figure the source gives, beside ours."""

    all: list[Measure]
    """By model, clean images first, eps falling."""

    @property
    def within(self) -> list[Measure]:
        """Those reproduced."""
        return [measure for measure in self.all if measure.verdict == "within"]

    @property
    def outside(self) -> list[Measure]:
        """Those not reproduced."""
        return [measure for measure in self.all if measure.verdict == "outside"]

    @property
    def rates(self) -> tuple[int, int]:
        """Published rates reproduced, and how many there are."""
        within = sum(measure.is_rate for measure in self.within)
        return within, within + sum(measure.is_rate for measure in self.outside)

    @property
    def losses(self) -> tuple[int, int]:
        """Published losses reproduced, and how many were judged."""
        within = sum(not measure.is_rate for measure in self.within)
        return within, within + sum(not measure.is_rate for measure in self.outside)


def compare(measures: Measures) -> Comparison:
    """Judge every published figure (:attr:`Measure.verdict`)."""
    published = [measure for measure in measures.all if measure.published is not None]
    order = ("correct", "not_null", "null", "loss", "null_loss")
    published.sort(
        key=lambda m: (
            measures.models.index(m.model),
            m.attack != CLEAN,
            order.index(m.metric) if m.metric in order else len(order),
            -m.eps,
        )
    )
    return Comparison(published)


def rule(num_seeds: int) -> str:
    """When a published figure counts as reproduced."""
    if num_seeds == 1:
        return (
            "A published rate counts as reproduced (✓) if it is within 0.3 points of ours. There "
            "is one seed, so how much training varies is unknown; published losses are shown "
            "and not judged."
        )
    return (
        "A published figure counts as reproduced (✓) if it is within 2 sd of the mean of our "
        f"{num_seeds} seeds, or within 0.3 points (0.003 for a loss) where that is more."
    )


def name_of(measure: Measure, unit: float | None) -> str:
    """What a measure is, in words."""
    if measure.attack == CLEAN:
        return f"{measure.model}: {NAMES.get(measure.metric, 'clean ' + measure.metric)}"
    what = {"null": "null share", "null_loss": "null loss"}.get(measure.metric, measure.metric)
    eps = eps_text(measure.eps / unit) if unit else eps_text(measure.eps)
    return f"{measure.model}: {what} at ε {eps}"


def published_text(measure: Measure) -> str:
    """The source's figure as the source gives it."""
    ranged = RANGES.get((measure.model, measure.attack, measure.metric))
    if ranged is not None:
        return ranged
    value = measure.published or 0.0
    return percent(value) if measure.is_rate else loss_text(value)


def with_unit(measure: Measure) -> str:
    """Our value with its spread, as a sentence has it."""
    cell = value_cell(measure)
    sign = " %" if measure.is_rate else ""
    if cell.small.startswith("±"):
        return f"{cell.text} {cell.small}{sign}"
    return f"{cell.text}{sign} ({cell.small})" if cell.small else cell.text + sign


def eps_heading(eps: float, unit: float | None) -> Cell:
    """An epsilon in the source's unit with pixel units under it, or in pixel units alone."""
    if unit is None:
        return Cell(f"ε {eps_text(eps)}")
    return Cell(f"ε {eps_text(eps / unit)}", f"{eps_text(eps)} px")


def clean_table(measures: Measures) -> Table:
    """Clean accuracy, loss and not-null share, each with the published figure."""
    rows = []
    for model in measures.models:
        row = [Cell(model)]
        for metric in ("correct", "not_null", "loss"):
            measure = measures.find(model, CLEAN, metric)
            if metric == "not_null" and not measures.has_null(model):
                row.append(Cell("–"))  # it cannot answer null
            else:
                row.append(value_cell(measure, RANGES.get((model, CLEAN, metric))))
        rows.append(row)
    return Table(
        "Clean images, measured and published",
        [Cell("model"), Cell("accuracy", "%"), Cell("not null", "%"), Cell("loss")],
        rows,
        f"{measures.num_images(CLEAN)} test images, {measures.seeds_text()}. {_spread(measures)} "
        "Figures after “pub.” are the notebook's, from one run each. The notebook ran null-0.5 "
        "twice: its accuracy and loss are ranges, and ours are judged against their middle.",
    )


def fgsm_table(measures: Measures, metric: str, unit: float | None) -> Table:
    """Null share or null loss under FGSM at every test epsilon, with the published figures."""
    budgets = measures.budgets(FGSM)[::-1]
    rows = [
        [Cell(model), *(value_cell(measures.find(model, FGSM, metric, eps)) for eps in budgets)]
        for model in measures.models
        if measures.has_null(model)
    ]
    what = "Null share of FGSM images, %" if metric == "null" else "Null loss on FGSM images"
    return Table(
        f"{what}, measured and published",
        [Cell("model"), *(eps_heading(eps, unit) for eps in budgets)],
        rows,
        f"FGSM on the model under test, {measures.num_images(FGSM)} test images, "
        f"{measures.seeds_text()}; ε in the notebook's units, pixel units (px) below. "
        f"{_spread(measures, metric == 'null')}",
    )


def white_box_table(measures: Measures, metric: str) -> Table:
    """AER, or RAR beside the clean triple it must be read with, at every budget.

    Args:
        measures: Of the run.
        metric: ``aer`` or ``rar``.
    """
    budgets = measures.union_budgets()
    words = () if metric == "aer" else ("correct", "null", "fooled")
    rows = []
    for model in measures.models:
        shown = [measures.find(model, CLEAN, word) for word in words]
        shown += [measures.find(model, UNION, metric, eps) for eps in budgets]
        cells = map(value_cell, shown)
        rows.append([Cell(model), *(Cell(cell.text, cell.small) for cell in cells)])
    what = {
        "aer": f"AER: share fooled by {measures.attacker()}, %",
        "rar": "RAR: share right when clean and never fooled, %, beside the clean outcomes",
    }
    return Table(
        what[metric],
        [
            Cell("model"),
            *(Cell(word, "clean") for word in words),
            *(Cell(f"ε {eps_text(eps)}", "px") for eps in budgets),
        ],
        rows,
        f"{measures.norm(UNION)}, ε in pixel units (px); the worst over all attacks at that ε "
        f"or below, {measures.num_images(UNION)} test images"
        f"{f', clean outcomes over {measures.num_images(CLEAN)}' if words else ''}, "
        f"{measures.seeds_text()}. {_spread(measures)}",
    )


def outcome_table(measures: Measures, model: str) -> Table:
    """Correct, null and fooled of one model under every attack and budget."""
    rows = []
    for attack in [CLEAN, *measures.attacks()]:
        for eps in measures.budgets(attack):
            triple = [measures.find(model, attack, w, eps) for w in ("correct", "null", "fooled")]
            name = "clean" if attack == CLEAN else f"{attack_name(attack)}, ε {eps_text(eps)}"
            rows.append([Cell(name), *map(value_cell, triple), Cell(measures.num_images(attack))])
    return Table(
        "Outcomes",
        [Cell("images"), *(Cell(word, "%") for word in ("correct", "null", "fooled")), Cell("n")],
        rows,
        f"{model}, {measures.seeds_text()}; ε in pixel units. {_spread(measures)}",
    )


def unnoticed(run: Run) -> pd.DataFrame:
    """What FGSM images that were not called null did, from the rows.

    Returns:
        Columns model, seed, eps_pixels, num_images, num_unnoticed (answered with a real class),
        num_fooled (a wrong one), num_turned (a wrong one where the clean image was right).
    """
    lines = []
    for trial in run.trials:
        clean = trial.rows[trial.rows["attack"] == CLEAN].set_index("image")["outcome"]
        attacked = trial.rows[trial.rows["attack"] == FGSM]
        was_right = attacked["image"].map(clean) == "correct"
        is_fooled = attacked["outcome"] == "fooled"
        told = pd.DataFrame(
            {
                "eps_pixels": attacked["eps_pixels"],
                "num_images": 1,
                "num_unnoticed": (attacked["outcome"] != "null").astype(int),
                "num_fooled": is_fooled.astype(int),
                "num_turned": (is_fooled & was_right).astype(int),
            }
        )
        counts = told.groupby("eps_pixels", as_index=False).sum()
        counts.insert(0, "model", trial.model)
        counts.insert(1, "seed", trial.seed)
        lines.append(counts)
    columns = ["model", "seed", "eps_pixels", "num_images", "num_unnoticed", "num_fooled"]
    return pd.concat(lines) if lines else pd.DataFrame(columns=[*columns, "num_turned"])


def unnoticed_table(measures: Measures, counts: pd.DataFrame, unit: float | None) -> Table:
    """By model and eps: FGSM images neither null nor correct, all seeds together."""
    budgets = measures.budgets(FGSM)[::-1]
    rows = []
    for model in measures.models:
        row = [Cell(model)]
        for eps in budgets:
            of = counts[(counts["model"] == model) & ((counts["eps_pixels"] - eps).abs() < 1e-6)]
            fooled, turned = int(of["num_fooled"].sum()), int(of["num_turned"].sum())
            row.append(Cell(f"{fooled:,}", f"{turned:,} turned") if len(of) else Cell("–"))
        rows.append(row)
    num = int(counts["num_images"].max()) * len(measures.seeds) if len(counts) else 0
    return Table(
        "FGSM images that were neither null nor correct",
        [Cell("model"), *(eps_heading(eps, unit) for eps in budgets)],
        rows,
        f"Number of images, of {num:,} in each cell: {measures.num_images(FGSM)} test images, "
        f"{measures.seeds_text()}. “Turned” are those that were answered rightly before the "
        "attack. ε in the notebook's units, pixel units (px) below.",
    )


def _spread(measures: Measures, are_rates: bool = True) -> str:
    if len(measures.seeds) == 1 and not are_rates:
        return "Mean over the images."
    if len(measures.seeds) == 1:
        return "Below each rate: its 95 % Wilson interval over the images."
    return "Mean over seeds ± their standard deviation."
