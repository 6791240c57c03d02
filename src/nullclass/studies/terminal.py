"""The table at the end of a run, on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import Cell
from nullclass.report.evaluation_tables import MEANINGS, columns_of, rate_heading
from nullclass.report.measures import (
    CLEAN,
    Measure,
    Measures,
    attack_name,
    eps_text,
    percent,
    pixel_per_unit,
)
from nullclass.report.tables import (
    compare,
    name_of,
    outcome_table,
    published_text,
)
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.config import (
    NULL_PROBABILITIES,
    TRANSFERS,
    from_substitute,
)
from nullclass.studies.null_samples.config import (
    BASE,
    NULL_SAMPLES,
    TRANSFER_AT_THRESHOLD,
    WHITE_BOX_AT_THRESHOLD,
)
from nullclass.studies.null_samples.sample_tables import accuracies, at_threshold, scores, white_box
from nullclass.studies.provable_null.config import PROVABLE_NULL, PROVABLE_NULL_FASHION
from nullclass.studies.provable_null.proved import clean_triple, radii

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

MARKS = {"within": "✓", "outside": "✗", "": ""}


def summary_table(run: Run) -> Group:
    """What the study's table tells; of others :func:`_any_study`.

    Returns:
        Something to give to rich's ``print``.
    """
    from rich.console import Group

    return Group(*TABLES.get(str(run.info.get("study")), _any_study)(run))


def _any_study(run: Run) -> list[Table]:
    """Measured beside published where there is something published, then the rates of the union."""
    measures = Measures(run)
    parts: list[Table] = []
    if any(measure.published is not None for measure in measures.all):
        parts.append(_published(measures, pixel_per_unit(run.info)))
    else:
        parts += [_outcomes(measures, model) for model in measures.models]
    if measures.budgets(UNION):
        parts.append(_union(measures))
    return parts


def _null_samples(run: Run) -> list[Table]:
    """The transferred attack at threshold beside the published scores, and the white-box one."""
    from rich.markup import escape

    measures = Measures(run)
    found = {
        "scores": [m.verdict for m in scores(measures) if m.verdict and m.model != BASE],
        "accuracies": [m.verdict for m in accuracies(measures) if m.verdict],
    }
    told = ", ".join(f"{v.count('within')} of {len(v)} {what}" for what, v in found.items())
    counts = [
        f"{measures.num_images(attack)} {what}"
        for attack, what in (
            (CLEAN, "clean"),
            (TRANSFER_AT_THRESHOLD, "transferred"),
            (WHITE_BOX_AT_THRESHOLD, "white-box"),
        )
        if measures.budgets(attack)
    ]
    table = _table(
        f"Measured beside published: reproduced {told}",
        f"%, {measures.seeds_text('set')}; images a set: {', '.join(counts)}. c/n/f: correct, "
        f"null, fooled at the thresholds of {BASE}",
        ["model", "clean", "transfer c/n/f", "published c/n/f", "", "white-box fooled"],
    )
    for model in measures.models:
        triple = [at_threshold(measures, model, word) for word in ("correct", "null", "fooled")]
        shown = [measure for measure in triple if measure is not None]
        marks = [measure.verdict for measure in shown]
        table.add_row(
            escape(model),
            _percent(measures.find(model, CLEAN, "correct"), 2),
            "/".join(_percent(measure) for measure in shown) or "–",
            "/".join(percent(m.published, 1) for m in shown if m.published is not None) or "–",
            MARKS["" if "" in marks or not marks else max(marks, key=("within", "outside").index)],
            _percent(white_box(measures, model, "fooled")),
        )
    return [table]


def _percent(measure: Measure | None, digits: int = 1) -> str:
    return "–" if measure is None else percent(measure.mean, digits)


def _null_probabilities(run: Run) -> list[Table]:
    """Clean outcomes and what transfers from the clean substitute, then the union."""
    from rich.markup import escape

    measures = Measures(run)
    transfers = [attack for attack in map(from_substitute, TRANSFERS) if measures.budgets(attack)]
    places = [(attack, eps) for attack in transfers for eps in measures.budgets(attack)]
    seen = f", {measures.num_images(transfers[0])} transferred" if transfers else ""
    table = _table(
        "Clean images, and fooled by what was made on a clean substitute",
        f"%, images a seed: {measures.num_images(CLEAN)} clean{seen}; ε in pixel units",
        [
            "model",
            *OUTCOME_NAMES,
            *(f"{attack_name(attack.split(' on ')[0])} {eps_text(eps)}" for attack, eps in places),
        ],
    )
    for model in measures.models:
        clean = (measures.find(model, CLEAN, outcome, 0.0) for outcome in OUTCOME_NAMES)
        fooled = (measures.find(model, attack, "fooled", eps) for attack, eps in places)
        rates = (_percent(rate, 2) for rate in (*clean, *fooled))
        table.add_row(escape(model), *rates)
    return [table, *([_union(measures)] if measures.union_budgets() else [])]


def _provable_null(run: Run) -> list[Table]:
    """Clean outcomes, then RAR proved and left by attacks, with the price, a line a model and ε."""
    from rich.markup import escape

    measures = Measures(run)
    own = radii(run)
    attacked = f", {measures.num_images(UNION)} attacked" if measures.budgets(UNION) else ""
    proved = f", {measures.num_images(PROOF)} for proofs" if measures.budgets(PROOF) else ""
    table = _table(
        "Proved, and left by attacks",
        f"%, images a seed: {measures.num_images(CLEAN)} clean{attacked}{proved}; "
        f"{measures.seeds_text()}; ε in pixel units. RAR: right when clean, never fooled; proved "
        "against every attack. c/n/f: clean correct, null, fooled",
        ["model", "clean c/n/f", "ε", "RAR proved", "RAR left", "AER", "null-DoS"],
    )
    for model in measures.models:
        radius = f" (r {eps_text(own[model])})" if model in own else ""
        triple = "/".join(_percent(measure, 2) for measure in clean_triple(measures, model))
        budgets = measures.union_budgets("rar") or measures.budgets(PROOF)
        for place, eps in enumerate(budgets or [0.0]):
            table.add_row(
                "" if place else escape(model) + radius,
                "" if place else triple,
                eps_text(eps),
                _percent(measures.find(model, PROOF, "rar_proved", eps), 2),
                *(
                    _percent(measures.find(model, UNION, m, eps))
                    for m in ("rar", "aer", "null_dos")
                ),
            )
    return [table]


TABLES: dict[str, Callable[[Run], list[Table]]] = {
    NULL_SAMPLES.name: _null_samples,
    NULL_PROBABILITIES.name: _null_probabilities,
    PROVABLE_NULL.name: _provable_null,
    PROVABLE_NULL_FASHION.name: _provable_null,
}
"""Tables of the studies that have their own."""


def _published(measures: Measures, unit: float | None) -> Table:
    """Rates only: a terminal is short, and losses stand in the report."""
    from rich.markup import escape

    comparison = compare(measures)
    within, num = comparison.rates
    table = _table(
        f"Measured beside published: {within} of {num} rates reproduced",
        f"%, {measures.seeds_text()}, {measures.num_images(CLEAN)} clean images; ε in the source's "
        "units",
        ["model", "", "measured", "published", ""],
    )
    told = [measure for measure in comparison.all if measure.is_rate]
    last = ""
    for measure in told:
        spread = f" ± {percent(measure.sd)}" if len(measure.values) > 1 else ""
        table.add_row(
            "" if measure.model == last else escape(measure.model),
            name_of(measure, unit).removeprefix(f"{measure.model}: "),
            percent(measure.mean) + spread,
            published_text(measure),
            MARKS[measure.verdict],
        )
        last = measure.model
    return table


def _union(measures: Measures) -> Table:
    """The rates of the union, a line a model and eps."""
    from rich.markup import escape

    shown = columns_of(measures)
    budgets = sorted({*measures.budgets(UNION), *measures.budgets(PROOF)})
    is_proved = bool(measures.budgets(PROOF))
    meanings = ". ".join(MEANINGS[metric] for attack, metric in shown if attack == UNION)
    beside = ". ≤ and ≥: proved, against every attack" if is_proved else ""
    table = _table(
        "The worst of all attacks, image by image" + (", and what is proved" if is_proved else ""),
        f"%, {measures.num_images(UNION)} images a seed; {measures.norm(UNION)}, ε in pixel units. "
        f"{meanings}{beside}",
        ["model", "ε", *(rate_heading(attack, metric).text for attack, metric in shown)],
    )
    for model in measures.models:
        for place, eps in enumerate(budgets):
            rates = (measures.find(model, attack, metric, eps) for attack, metric in shown)
            name = "" if place else escape(model)
            table.add_row(name, eps_text(eps), *(_percent(rate, 2) for rate in rates))
    return table


def _outcomes(measures: Measures, model: str) -> Table:
    from rich.markup import escape

    content = outcome_table(measures, model)
    table = _table(
        escape(model), "%, ε in pixel units", [column.text for column in content.columns]
    )
    for row in content.rows:
        table.add_row(*(_inline(cell) for cell in row))
    return table


def _table(title: str, caption: str, headings: list[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1))
    for place, heading in enumerate(headings):
        is_text = place == 0 or not heading
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    return table


def _inline(cell: Cell) -> str:
    """A cell on one line; an interval stays in the report, where there is room."""
    return f"{cell.text} {cell.small}" if cell.small.startswith("±") else cell.text
