"""The table builder, and the tables that evaluations and studies share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import Cell, Table
from nullclass.report.formatting import attack_name, eps_text, value_cell
from nullclass.report.measures import OUTCOMES, Measure, Measures
from nullclass.results.schema import CLEAN

Key = tuple[str, str, str, float]
"""Model, attack, metric and ε of a measure."""

RATES = {"aer": "AER", "rar": "RAR", "strict": "strict", "null_dos": "null-DoS"}
"""Rates of the union, in the order of tables."""
MEANINGS = {
    "aer": "AER: fooled",
    "rar": "RAR: correct when clean, never fooled",
    "strict": "strict: correct when clean and under attack",
    "null_dos": "null-DoS: correct when clean, null under attack",
}
PROVED = {"aer": "aer_bound", "rar": "rar_proved", "strict": "strict_proved"}
"""Rates of the union and the proved bound of each."""
PERCENT = [Cell(name, "%") for name in OUTCOMES]
"""Headings of the three outcomes."""


Value = Cell | Measure | str | int | tuple[str, str] | None
"""Content of a cell: text and small print in a tuple; a dash if missing."""


def as_cell(value: Value, digits: int = 2) -> Cell:
    """A value as a table cell; ``digits`` are decimals of a rate in percent."""
    if isinstance(value, Cell):
        return value
    if isinstance(value, tuple):
        return Cell(*value)
    if isinstance(value, int):
        return Cell(f"{value:,}")
    return Cell(value) if isinstance(value, str) else value_cell(value, digits=digits)


def make_table(
    title: str,
    columns: Iterable[Value],
    rows: Iterable[Iterable[Value]],
    caption: str = "",
    note: str = "",
    *,
    digits: int = 2,
    holds_words: bool = False,
) -> Table:
    """A table of measures, texts and numbers.

    Args:
        title: Title.
        columns: Headings, that of the row names first.
        rows: Cells, the name of the row first.
        caption: Caption: attack, number of images, seeds and unit of ε.
        note: On the small print in cells (:meth:`Measures.spread_note`).
        digits: Decimals of rates in percent.
        holds_words: Whether cells are words.
    """
    cells = [[as_cell(value, digits) for value in row] for row in rows]
    return Table(title, [as_cell(name) for name in columns], cells, caption, note, holds_words)


def measure_table(
    measures: Measures,
    title: str,
    columns: Iterable[Value],
    rows: Iterable[tuple[Value, Sequence[Key]]],
    caption: str = "",
    *,
    has_n: bool = False,
    spread: str | None = None,
) -> Table:
    """A table whose cells are found by their keys.

    Args:
        measures: Of the run.
        title: Title.
        columns: Headings, that of the row names first.
        rows: Name and keys of the cells of each row.
        caption: Caption.
        has_n: Whether a last column gives the number of images of each row's first attack.
        spread: Note on intervals, if not the usual one (:meth:`Measures.spread_note`).
    """
    body = (
        [name, *(measures.find(*key) for key in keys), *_n(measures, keys[0][1], has_n)]
        for name, keys in rows
    )
    headings = [*columns, *["n"] * has_n]
    return make_table(title, headings, body, caption, spread or measures.spread_note())


def _n(measures: Measures, attack: str, has_n: bool) -> list[str]:
    return [measures.num_images(attack)] if has_n else []


def outcomes_of(model: str, attack: str = CLEAN, eps: float = 0.0) -> list[Key]:
    """Keys of the three outcomes."""
    return [(model, attack, outcome, eps) for outcome in OUTCOMES]


def outcome_table(measures: Measures, model: str) -> Table:
    """Outcomes of one model, clean and under every attack and budget."""
    rows: list[tuple[str | Cell, Sequence[Key]]] = []
    for attack in [CLEAN, *measures.attacks()]:
        for eps in measures.budgets(attack):
            name = "clean" if attack == CLEAN else f"{attack_name(attack)}, ε {eps_text(eps)}"
            rows.append((name, outcomes_of(model, attack, eps)))
    caption = f"{model}, {measures.seeds_text()}; ε in pixel units."
    return measure_table(
        measures, "Outcomes", [Cell("images"), *PERCENT], rows, caption, has_n=True
    )


def clean_outcomes_table(measures: Measures, title: str, caption: str) -> Table:
    """Clean outcomes of every model."""
    rows = [(model, outcomes_of(model)) for model in measures.models]
    return measure_table(measures, title, [Cell("model"), *PERCENT], rows, caption)


def white_box_table(measures: Measures, metric: str) -> Table:
    """AER, or RAR with the clean outcomes, of every model at every budget.

    Args:
        measures: Of the run.
        metric: ``aer`` or ``rar``.
    """
    budgets = measures.union_budgets()
    is_rar = metric == "rar"
    rows = [
        (
            model,
            [
                *(outcomes_of(model) if is_rar else []),
                *((model, UNION, metric, eps) for eps in budgets),
            ],
        )
        for model in measures.models
    ]
    title = (
        "RAR: share correct when clean and never fooled, %, with the clean outcomes"
        if is_rar
        else f"AER: share fooled by {measures.attacker()}, %"
    )
    clean = f"; clean outcomes on {measures.num_images(CLEAN)}" if is_rar else ""
    columns = [
        Cell("model"),
        *(Cell(name, "clean") for name in OUTCOMES if is_rar),
        *(Cell(f"ε {eps_text(eps)}", "px") for eps in budgets),
    ]
    caption = (
        f"{measures.norm(UNION)}, ε in pixel units (px). Worst case per image over all attacks at "
        f"that ε or below, {measures.num_images(UNION)} test images{clean}, "
        f"{measures.seeds_text()}."
    )
    return measure_table(measures, title, columns, rows, caption)


def union_columns(measures: Measures) -> list[tuple[str, str]]:
    """Rates of the union, each followed by its proved bound: attack and metric of those known.

    An attack bounds the true rate from one side, a proof from the other.
    """
    proved = {m.name for m in measures.all if m.attack == PROOF}
    columns = []
    for metric in RATES:
        if measures.union_budgets(metric):
            columns.append((UNION, metric))
        if PROVED.get(metric) in proved:
            columns.append((PROOF, PROVED[metric]))
    return columns


def union_heading(attack: str, metric: str) -> Cell:
    """Heading of a rate of the union or of the proofs."""
    if attack == UNION:
        return Cell(RATES[metric], "%")
    (rate,) = (rate for rate, proved in PROVED.items() if proved == metric)
    return Cell(f"{RATES[rate]} {'≤' if rate == 'aer' else '≥'}", "proved, %")


def union_table(measures: Measures) -> Table | None:
    """Rates of the union and proved bounds, one row per model and ε."""
    columns = union_columns(measures)
    budgets = sorted({*measures.budgets(UNION), *measures.budgets(PROOF)})
    if not budgets:
        return None
    is_proved = bool(measures.budgets(PROOF))
    several = len(measures.models) > 1
    rows: list[list[Cell]] = []
    for model in measures.models:
        for index, eps in enumerate(budgets):
            found = [measures.find(model, attack, metric, eps) for attack, metric in columns]
            row = [Cell("" if index else model)] if several else []
            row += [Cell(f"ε {eps_text(eps)}"), *map(value_cell, found)]
            if is_proved:
                row.append(value_cell(measures.find(model, CLEAN, "null")))
            rows.append([*row, Cell(_num_judged(measures))])
    meanings = [MEANINGS[metric] for attack, metric in columns if attack == UNION]
    caption = (
        "Worst case per image over all attacks at that ε or below, including the search for the "
        f"smallest ε, and the clean image; {measures.norm(UNION) or measures.norm(PROOF)}, ε in "
        f"pixel units. {'. '.join(meanings)}. "
    )
    if is_proved:
        caption += (
            "Proved bounds hold against every attack; the true rate lies between the two. Null-DoS "
            "has no proved bound; clean null is the share of clean images answered null. "
        )
    return Table(
        "Worst case over all attacks" + (", and proved bounds" if is_proved else ""),
        [
            *([Cell("model")] if several else []),
            Cell("budget"),
            *(union_heading(*column) for column in columns),
            *([Cell("clean null", "%")] if is_proved else []),
            Cell("n"),
        ],
        rows,
        caption.strip(),
        measures.spread_note(),
    )


def _num_judged(measures: Measures) -> str:
    """Number of attacked images and, if different, of images with proofs."""
    counts = {name: measures.num_images(name) for name in (UNION, PROOF) if measures.budgets(name)}
    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    return ", ".join(
        f"{count} {'attacked' if name == UNION else 'proved'}" for name, count in counts.items()
    )
