"""Tables of the study ``null-probabilities``: criteria, transfers, attackers without the model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Cell, Table
from nullclass.report.formatting import attack_name, eps_text, percent, value_cell
from nullclass.report.measures import OUTCOMES, Measures
from nullclass.report.tables import clean_outcomes_table, measure_table
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.config import CLEAN as BASE
from nullclass.studies.null_probabilities.config import QUERIED, TRANSFERS, from_substitute
from nullclass.studies.null_probabilities.measured import (
    CLEAN_NULL,
    DISTANCE,
    FALL,
    LIMITS,
    LOST,
    SUBSTITUTE,
    TRANSFERRED,
    Criterion,
    CurveFit,
    Transfers,
)
from nullclass.studies.null_probabilities.names import model_cell, named, short, size_text

LABEL_ATTACK = "rays"
"""The attack that sees only labels."""


def mean_text(values: Sequence[float], digits: int = 2, factor: float = 100) -> str:
    """Mean, and sd with several values."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "–"
    sd = f" ± {factor * statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{factor * statistics.fmean(known):.{digits}f}{sd}".replace("-", "−")


def _criterion_cell(criterion: Criterion | None, note: str = "") -> Cell:
    if criterion is None:
        return Cell("–")
    factor = 1 if criterion.what == DISTANCE else 100
    verdict = "✓ met" if criterion.is_met else "✗ missed"
    return Cell(mean_text(criterion.values, 2, factor), f"{verdict}{note}")


def criteria_table(
    measures: Measures, found: Sequence[Criterion], transfers: Transfers, fits: Sequence[CurveFit]
) -> Table:
    """All criteria with their verdicts, and the clean model for comparison."""
    columns = [(LOST, 0.0), (CLEAN_NULL, 0.0)]
    columns += [(TRANSFERRED, eps) for eps in transfers.budgets]
    columns += [(DISTANCE, 0.0), (FALL, 0.0)]
    by = {(c.model, c.what, c.eps): c for c in found}
    rows = []
    for model in dict.fromkeys(criterion.model for criterion in found):
        of = [fit for fit in fits if fit.model == model]
        worst = max(of, key=lambda fit: fit.distance, default=None)
        notes = {DISTANCE: f", size {size_text(worst.size, worst.norm)}" if worst else ""}
        row = [model_cell(model)]
        for what, eps in columns:
            row.append(_criterion_cell(by.get((model, what, eps)), notes.get(what, "")))
        rows.append(row)
    if rows and BASE in measures.models:
        rates = (transfers.strongest(SUBSTITUTE, BASE, eps) for eps in transfers.budgets)
        cells = [Cell("–"), Cell(value_cell(measures.find(BASE, CLEAN, "null")).text)]
        cells += [Cell(value_cell(rate).text) for rate in rates]
        rows.append([model_cell(BASE), *cells, Cell("–"), Cell("–")])
    attacks = " and ".join(map(attack_name, transfers.attacks)) or "no attacks"
    sizes = f"{min(f.num_images for f in fits):,} test images per size" if fits else "no sizes"
    limits = {what: f"≤ {100 * limit:g}" for what, limit in LIMITS.items()}
    spread = "; mean ± standard deviation" if len(measures.seeds) > 1 else ""
    return Table(
        "Criteria for NULL probabilities",
        [
            Cell("model"),
            Cell("accuracy lost", f"points, {limits[LOST]}"),
            Cell("clean null", f"%, {limits[CLEAN_NULL]}"),
            *(
                Cell(f"fooled, ε {eps_text(eps)}", f"%, {limits[TRANSFERRED]}")
                for eps in transfers.budgets
            ),
            Cell("from f", f"≤ {LIMITS[DISTANCE]:g}"),
            Cell("falls", f"points, {limits[FALL]}"),
        ],
        rows,
        "Accuracy lost: clean accuracy below that of the clean model; n = "
        f"{measures.num_images(CLEAN) if measures.budgets(CLEAN) else 0}. Fooled: by adversarial "
        f"images of the clean substitute, the stronger of {attacks}; L∞, ε in pixel units; n = "
        f"{transfers.num_images}. From f: largest distance of the mean null probability from f in "
        f"the trained range, and its size; falls: its largest decrease with growing size; {sizes}. "
        f"{measures.seeds_text()}{spread}. Last row: the clean model.",
    )


def clean_table(measures: Measures) -> Table:
    """Outcomes of clean images."""
    caption = f"No attack, n = {measures.num_images(CLEAN)}, {measures.seeds_text()}."
    return named(clean_outcomes_table(measures, "Clean images", caption))


def strict_table(measures: Measures) -> Table:
    """Strict robust accuracy and null-DoS of the union."""
    columns = [
        (metric, e) for metric in ("strict", "null_dos") for e in measures.union_budgets(metric)
    ]
    attacks = sorted({attack_name(m.attack) for m in measures.all if m.objective == "force-null"})
    table = measure_table(
        measures,
        "Strict robust accuracy and null-DoS, %",
        [
            Cell("model"),
            *(Cell(m.replace("_dos", "-DoS"), f"ε {eps_text(e)} px") for m, e in columns),
        ],
        [(model, [(model, UNION, *column) for column in columns]) for model in measures.models],
        "Strict: correct when clean and under every attack. Null-DoS: correct when clean, null "
        f"under some attack; a lower bound ({' and '.join(attacks) or 'no attack'} aims at null). "
        f"{measures.norm(UNION)}, ε in pixel units (px), n = {measures.num_images(UNION)}, "
        f"{measures.seeds_text()}.",
    )
    return named(table)


def substitute_table(transfers: Transfers, measures: Measures) -> Table:
    """Fooled by adversarial images of the clean substitute."""
    columns = [(attack, eps) for attack in transfers.attacks for eps in transfers.budgets]
    rows = []
    for target in transfers.targets:
        found = (transfers.find(attack, SUBSTITUTE, target, eps) for attack, eps in columns)
        rows.append([model_cell(target), *map(value_cell, found)])
    return Table(
        "Fooled by transfer from the clean substitute, %",
        [Cell("target"), *(Cell(attack_name(a), f"ε {eps_text(eps)} px") for a, eps in columns)],
        rows,
        "The source is a clean model of another architecture that the attacker trained on the same "
        f"data; L∞, ε in pixel units (px), n = {transfers.num_images}, {measures.seeds_text()}.",
        measures.spread_note(),
    )


def label_attack_table(measures: Measures) -> Table:
    """Fooled and null under the attack that sees only labels."""
    columns = [(word, e) for word in ("fooled", "null") for e in measures.budgets(LABEL_ATTACK)]
    table = measure_table(
        measures,
        f"{attack_name(LABEL_ATTACK)}, an attack that sees only labels, %",
        [Cell("model"), *(Cell(word, f"ε {eps_text(eps)} px") for word, eps in columns)],
        [(m, [(m, LABEL_ATTACK, *column) for column in columns]) for m in measures.models],
        "The attacker queries the model for labels; null is a failure. L∞, ε in pixel units (px), "
        f"n = {measures.num_images(LABEL_ATTACK)}, {measures.seeds_text()}.",
    )
    return named(table)


def queries_table(run: Run, measures: Measures) -> Table | None:
    """Substitutes that were trained on the answers of their targets."""
    rows = []
    for target in measures.models:
        logs = [log for (name, _), log in run.queried.items() if name == f"{QUERIED}-{target}"]
        if not logs:
            continue
        totals = [log["num_queries"].sum() for log in logs]
        null = [
            (log["null"] * log["num_queries"]).sum() / total
            for log, total in zip(logs, totals, strict=True)
        ]
        agreements = ([log.iloc[-1][f"agreement_{w}"] for log in logs] for w in ("before", "after"))
        row = [model_cell(target), Cell(str(max(map(len, logs)))), Cell(f"{max(totals):,}")]
        rows.append([*row, *(Cell(mean_text(values, 1)) for values in (null, *agreements))])
    if not rows:
        return None
    return Table(
        "Substitutes by queries",
        [
            Cell("target"),
            Cell("rounds"),
            Cell("queries"),
            Cell("answered null", "%"),
            Cell("agreement", "new images, %"),
            Cell("agreement", "own images, %"),
        ],
        rows,
        "A small network trained only on the target's answers, null included; each round adds "
        "images along the network's gradients (Papernot et al. 2017). Agreement: how often both "
        "give the same answer in the last round, on its new images before training and on all its "
        "images after. All these images lie near the first ones, so agreement elsewhere may "
        f"differ. {measures.seeds_text()}.",
    )


def matrix_table(transfers: Transfers, measures: Measures, attack: str, eps: float) -> Table:
    """Fooled by source and target, with transfer rates."""
    rows = []
    for source in transfers.sources:
        row = [model_cell(source)]
        for target in transfers.targets:
            fooled = transfers.find(attack, source, target, eps)
            rate = transfers.rate(attack, source, target, eps)
            small = "–" if rate is None else f"{mean_text(rate.values, 1)} % of {rate.num_images}"
            small = "white-box" if source == target else small
            row.append(Cell("–") if fooled is None else Cell(mean_text(fooled.values, 1), small))
        rows.append(row)
    return Table(
        f"{attack_name(attack)}, ε {eps_text(eps)}",
        [Cell("source"), *(Cell(short(target)) for target in transfers.targets)],
        rows,
        f"Share of test images that fool the target, %, n = {transfers.num_images}. Below: the "
        "transfer rate and its n; “–” if no image fools the source. L∞, ε in pixel units, "
        f"{measures.seeds_text()}{'; mean ± standard deviation' * (len(measures.seeds) > 1)}.",
    )


def summary_table(measures: Measures) -> Table:
    """Clean outcomes and transfers from the clean substitute, for the terminal."""
    attacks = [attack for attack in map(from_substitute, TRANSFERS) if measures.budgets(attack)]
    places = [(attack, eps) for attack in attacks for eps in measures.budgets(attack)]
    rows = []
    for model in measures.models:
        found = [measures.find(model, CLEAN, outcome) for outcome in OUTCOMES]
        found += [measures.find(model, attack, "fooled", eps) for attack, eps in places]
        rates = ["–" if rate is None else percent(rate.mean) for rate in found]
        rows.append([Cell(text) for text in (model, *rates)])
    sent = f", {measures.num_images(attacks[0])} transferred" if attacks else ""
    names = [f"{attack_name(attack.split(' on ')[0])} {eps_text(eps)}" for attack, eps in places]
    return Table(
        "Clean images, and fooled by transfer from a clean substitute",
        [Cell(name) for name in ("model", *OUTCOMES, *names)],
        rows,
        f"%, images per seed: {measures.num_images(CLEAN)} clean{sent}; ε in pixel units",
    )
