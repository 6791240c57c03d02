"""The table builder, and the tables that evaluations and studies share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.report.blocks import Cell, Table
from nullclass.report.formatting import attack_name, eps_text, value_cell
from nullclass.report.measures import Measures
from nullclass.results.info import CostInfo
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, PROOF, SMALLEST, UNION

UNION_RATES = {"aer": "AER", "rar": "RAR", "strict": "strict", "null_dos": "null-DoS"}
"""Rates of the union, in the order of tables."""
MEANINGS = {
    "aer": "AER: fooled",
    "rar": "RAR: correct when clean, never fooled",
    "strict": "strict: correct when clean and under attack",
    "null_dos": "null-DoS: correct when clean, null under attack",
}
PROVED = {"aer": "aer_bound", "rar": "rar_proved", "strict": "strict_proved"}
"""Rates of the union and the proved bound of each."""
Column = tuple[Any, str, str, float]
"""Heading, attack, metric and ε in pixel units."""


def as_cell(value: Any, digits: int = 2) -> Cell:
    """A measure, text, number, pair of text and small print, or cell as a cell; ``None`` is a dash.

    Args:
        value: The value.
        digits: Decimals of a rate in percent.
    """
    if isinstance(value, Cell):
        return value
    if isinstance(value, tuple):
        return Cell(*value)
    if isinstance(value, int):
        return Cell(f"{value:,}")
    return Cell(value) if isinstance(value, str) else value_cell(value, digits=digits)


def make_table(
    title: str,
    columns: Iterable[Any],
    rows: Iterable[Iterable[Any]],
    caption: str = "",
    note: str = "",
    *,
    digits: int = 2,
    holds_words: bool = False,
) -> Table:
    """A table of measures, texts and numbers.

    Args:
        title: Title.
        columns: Headings (:func:`as_cell`), that of the row names first.
        rows: Cells (:func:`as_cell`), the name of the row first.
        caption: Caption: attack, number of images, seeds and unit of ε.
        note: On the small print in cells (:meth:`Measures.spread_note`).
        digits: Decimals of rates in percent.
        holds_words: Whether cells are words.
    """
    cells = [[as_cell(value, digits) for value in row] for row in rows]
    return Table(title, [as_cell(name) for name in columns], cells, caption, note, holds_words)


def outcome_table(measures: Measures, model: str) -> Table:
    """Outcomes of one model, clean and under every attack and budget."""
    rows = [
        [
            "clean" if attack == CLEAN else f"{attack_name(attack)}, ε {eps_text(eps)}",
            *(measures.find(model, attack, outcome, eps) for outcome in OUTCOME_NAMES),
            measures.num_images(attack),
        ]
        for attack in [CLEAN, *measures.attacks()]
        for eps in measures.budgets(attack)
    ]
    caption = f"{model}, {measures.seeds_text()}; ε in pixel units."
    headings = ["images", *((name, "%") for name in OUTCOME_NAMES), "n"]
    return make_table("Outcomes", headings, rows, caption, measures.spread_note())


def rates_table(
    measures: Measures,
    title: str,
    columns: Sequence[Column],
    caption: str,
    *,
    has_published: bool = True,
) -> Table:
    """One row per model; without columns no row.

    Args:
        measures: Of the run.
        title: Title.
        columns: Heading, attack, metric and ε of each column.
        caption: Caption: attack, number of images, seeds and unit of ε.
        has_published: Whether published values are shown.
    """
    rows: list[list[Any]] = []
    for model in measures.models if columns else ():
        found = [measures.find(model, attack, rate, eps) for _, attack, rate, eps in columns]
        if not has_published:
            found = [measure and replace(measure, published=None) for measure in found]
        rows.append([model, *found])
    headings = ["model", *(heading for heading, *_ in columns)]
    return make_table(title, headings, rows, caption, measures.spread_note())


def clean_outcomes_table(measures: Measures, title: str, caption: str) -> Table:
    """Clean outcomes of every model."""
    columns = [((outcome, "%"), CLEAN, outcome, 0.0) for outcome in OUTCOME_NAMES]
    return rates_table(measures, title, columns, caption)


def white_box_table(measures: Measures, metric: str) -> Table:
    """AER, or RAR with the clean outcomes, of every model at every budget.

    Args:
        measures: Of the run.
        metric: ``aer`` or ``rar``.
    """
    budgets, n = measures.union_budgets(), ""
    title = f"AER: share fooled by {measures.attacker()}, %"
    columns: list[Column] = [((f"ε {eps_text(eps)}", "px"), UNION, metric, eps) for eps in budgets]
    if metric == "rar" and budgets:
        title = "RAR: share correct when clean and never fooled, %, with the clean outcomes"
        n = f"; clean outcomes on {measures.num_images(CLEAN)}"
        columns = [((name, "clean"), CLEAN, name, 0.0) for name in OUTCOME_NAMES] + columns
    caption = (
        f"{measures.norm(UNION)}, ε in pixel units (px). Worst case per image over all attacks at "
        f"that ε or below, {measures.num_images(UNION)} test images{n}, "
        f"{measures.seeds_text()}."
    )
    # published values of clean images are in another table
    return rates_table(measures, title, columns, caption, has_published=False)


def _union_columns(measures: Measures) -> dict[tuple[str, str], tuple[str, str]]:
    """Attack and metric to heading: rates of the union, each followed by its proved bound.

    An attack bounds the true rate from one side, a proof from the other.
    """
    proved = {m.name for m in measures.all if m.attack == PROOF}
    columns = {}
    for metric, name in UNION_RATES.items():
        if measures.union_budgets(metric):
            columns[UNION, metric] = (name, "%")
        if PROVED.get(metric) in proved:
            sign = "≤" if metric == "aer" else "≥"
            columns[PROOF, PROVED[metric]] = (f"{name} {sign}", "proved, %")
    return columns


def union_table(measures: Measures) -> Table:
    """Rates of the union and proved bounds, one row per model and ε."""
    columns = _union_columns(measures)
    is_proved, several = bool(measures.budgets(PROOF)), len(measures.models) > 1
    rows: list[list[Any]] = []
    for model in measures.models:
        budgets = sorted({*measures.budgets(UNION), *measures.budgets(PROOF)})
        for index, eps in enumerate(budgets):
            row: list[Any] = [f"ε {eps_text(eps)}"]
            row += [measures.find(model, *column, eps) for column in columns]
            if is_proved:
                row.append(measures.find(model, CLEAN, "null"))
            rows.append([*["" if index else model] * several, *row, _num_judged(measures)])
    meanings = [MEANINGS[metric] for attack, metric in columns if attack == UNION]
    is_searched = any(measure.attack == SMALLEST for measure in measures.all)
    including = ", including the search for the smallest ε" if is_searched else ""
    caption = (
        "Worst case per image over all attacks at that ε or below"
        f"{including}, and the clean image; {measures.norm(UNION) or measures.norm(PROOF)}, ε in "
        f"pixel units. {'. '.join(meanings)}."
    )
    if is_proved:
        is_same = not measures.budgets(UNION) or (
            measures.num_images(UNION) == measures.num_images(PROOF)
        )
        between = "; the true rate lies between the two" if is_same else ", on their own images"
        caption += (
            f" Proved bounds hold against every attack{between}. "
            "Null-DoS has no proved bound; clean null is the share of clean images answered null."
        )
    return make_table(
        "Worst case over all attacks" + ", and proved bounds" * is_proved,
        [
            *["model"] * several,
            "budget",
            *columns.values(),
            *[("clean null", "%")] * is_proved,
            "n",
        ],
        rows,
        caption,
        measures.spread_note(),
    )


def _num_judged(measures: Measures) -> str:
    """Number of attacked images and, if different, of images with proofs."""
    counts = {
        word: measures.num_images(name)
        for name, word in ((UNION, "attacked"), (PROOF, "proved"))
        if measures.budgets(name)
    }
    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def prediction_costs(run: Run) -> dict[str, CostInfo]:
    """Cost of a prediction by model, of its first seed that was measured."""
    costs: dict[str, CostInfo] = {}
    for trial in run.trials:
        if trial.result.prediction is not None:
            costs.setdefault(trial.model, trial.result.prediction)
    return costs
