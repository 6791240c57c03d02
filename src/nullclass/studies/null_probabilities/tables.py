"""Tables of the study ``null-probabilities``: criteria, attacks, substitutes by queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.report.blocks import Table
from nullclass.report.formatting import attack_name, eps_text, spread_text, value_cell
from nullclass.report.measures import Measures
from nullclass.report.tables import clean_outcomes_table, make_table, rates_table
from nullclass.results.schema import CLEAN, UNION
from nullclass.studies.null_probabilities.config import BASE, QUERIED, TRANSFERS, from_substitute
from nullclass.studies.null_probabilities.measured import (
    CLEAN_NULL,
    DISTANCE,
    FALL,
    LIMITS,
    LOST,
    TRANSFERRED,
    strongest_transfer,
    transfer_budgets,
)
from nullclass.studies.null_probabilities.names import named, short, size_text

LABEL_ATTACK = "rays"
"""The attack that sees only labels."""


def criteria_table(measures: Measures, found: pd.DataFrame, fits: pd.DataFrame) -> Table:
    """All criteria with their verdicts, and the clean model for comparison.

    Args:
        measures: Of the run.
        found: From :func:`~nullclass.studies.null_probabilities.measured.criteria`.
        fits: From :func:`~nullclass.studies.null_probabilities.measured.curve_fits`.
    """
    budgets = transfer_budgets(measures)
    columns = [(LOST, 0.0), (CLEAN_NULL, 0.0), *((TRANSFERRED, eps) for eps in budgets)]
    columns += [(DISTANCE, 0.0), (FALL, 0.0)]
    rows: list[list[Any]] = []
    for model, of in found.groupby("model", sort=False):
        cells: dict[tuple[str, float], Any] = dict.fromkeys(columns)
        for line in of.to_dict("records"):
            note = "✓ met" if line["is_met"] else "✗ missed"
            if line["criterion"] == DISTANCE:
                fit = fits[fits["model"] == model].nlargest(1, "distance").iloc[0]
                note += f", size {size_text(fit['size'], fit['norm'])}"
            text = spread_text(line["mean"], line["sd"], 2)
            cells[line["criterion"], line["eps"]] = (text, note)
        rows.append([short(str(model)), *cells.values()])
    if rows and BASE in measures.models:
        rates = [measures.find(BASE, CLEAN, "null")]
        rates += [strongest_transfer(measures, BASE, eps) for eps in budgets]
        rows.append([short(BASE), None, *(value_cell(rate).text for rate in rates), None, None])
    units = {CLEAN_NULL: "%", TRANSFERRED: "%"}
    headings = [
        (
            f"{name}, ε {eps_text(eps)}" if eps else name,
            f"{units.get(name, 'points')}, ≤ {100 * LIMITS[name]:g}",
        )
        for name, eps in columns
    ]
    spread = "; mean ± standard deviation" if len(measures.seeds) > 1 else ""
    sizes = f" ({fits['num_images'].min():,} test images per size)" if len(fits) else ""
    return make_table(
        "Criteria for NULL probabilities",
        ["model", *headings],
        rows,
        "Accuracy lost: clean accuracy below that of the clean model, n = "
        f"{measures.num_images(CLEAN)}. Fooled: by adversarial images of the clean substitute, the "
        f"stronger of {' and '.join(map(attack_name, TRANSFERS))}, L∞, ε in pixel units, n = "
        f"{measures.num_images(from_substitute(TRANSFERS[0]))}. Distance from f: largest distance "
        "of the mean null probability from f in the trained range, and the size where it is; "
        f"decrease: its largest decrease with growing size{sizes}. {measures.seeds_text()}{spread}."
        " Last row: the clean model.",
    )


def clean_table(measures: Measures) -> Table:
    """Outcomes of clean images."""
    caption = f"No attack, n = {measures.num_images(CLEAN)}, {measures.seeds_text()}."
    return named(clean_outcomes_table(measures, "Clean images", caption))


def attack_table(
    measures: Measures, title: str, rates: Mapping[str, tuple[str, str]], caption: str
) -> Table:
    """Rates of every model at every ε.

    Args:
        measures: Of the run.
        title: Title.
        rates: Attack and metric by heading.
        caption: Beginning of the caption, before norm, number of images and seeds.
    """
    columns = [
        ((name, f"ε {eps_text(eps)} px"), *rate, eps)
        for name, rate in rates.items()
        for eps in sorted({m.eps for m in measures.all if (m.attack, m.name) == rate})
    ]
    attack, _ = next(iter(rates.values()))
    caption = (
        f"{caption} {measures.norm(attack)}, ε in pixel units (px), n = "
        f"{measures.num_images(attack)}, {measures.seeds_text()}."
    )
    return named(rates_table(measures, title, columns, caption))


def strict_table(measures: Measures) -> Table:
    """Strict robust accuracy and null-DoS of the union."""
    attacks = sorted({attack_name(m.attack) for m in measures.all if m.objective == "force-null"})
    return attack_table(
        measures,
        "Strict robust accuracy and null-DoS, %",
        {"strict": (UNION, "strict"), "null-DoS": (UNION, "null_dos")},
        "Strict: correct when clean and under every attack. Null-DoS: correct when clean, null "
        f"under some attack; a lower bound ({' and '.join(attacks) or 'no attack'} aims at null).",
    )


def substitute_table(measures: Measures) -> Table:
    """Fooled by adversarial images of the clean substitute."""
    return attack_table(
        measures,
        "Fooled by transfer from the clean substitute, %",
        {attack_name(attack): (from_substitute(attack), "fooled") for attack in TRANSFERS},
        "The source is a clean model of another architecture that the attacker trained on the same "
        "data.",
    )


def label_attack_table(measures: Measures) -> Table:
    """Fooled and null under the attack that sees only labels."""
    return attack_table(
        measures,
        f"{attack_name(LABEL_ATTACK)}, an attack that sees only labels, %",
        {outcome: (LABEL_ATTACK, outcome) for outcome in ("fooled", "null")},
        "The attacker queries the model for labels; null is a failure.",
    )


def queries_table(measures: Measures) -> Table:
    """Substitutes that were trained on the answers of their targets."""
    rows: list[list[Any]] = []
    for target in measures.models:
        substitute = f"{QUERIED}-{target}"
        logs = [log for (name, _), log in measures.run.queried.items() if name == substitute]
        if not logs:
            continue
        num_queries = [int(log["num_queries"].sum()) for log in logs]
        shares = pd.DataFrame(
            {
                "null": [(log["null"] * log["num_queries"]).sum() for log in logs],
                "before": [log["agreement_before"].iloc[-1] for log in logs],
                "after": [log["agreement_after"].iloc[-1] for log in logs],
            }
        )
        shares["null"] /= num_queries
        texts = map(spread_text, shares.mean(), shares.std())
        rows.append([short(target), max(map(len, logs)), max(num_queries), *texts])
    return make_table(
        "Substitutes by queries",
        [
            "target",
            "rounds",
            "queries",
            ("answered null", "%"),
            ("agreement", "new images, %"),
            ("agreement", "own images, %"),
        ],
        rows,
        "A small network trained only on the target's answers, null included; each round adds "
        "images along the network's gradients (Papernot et al. 2017). Agreement: how often both "
        "give the same answer in the last round, on its new images before training and on all its "
        "images after. All these images lie near the first ones, so agreement elsewhere may "
        f"differ. {measures.seeds_text()}.",
    )


def summary_table(measures: Measures) -> Table:
    """Clean outcomes and transfers from the clean substitute, for the terminal."""
    budgets = transfer_budgets(measures)
    rows = [
        [
            model,
            *(measures.find(model, CLEAN, outcome) for outcome in OUTCOME_NAMES),
            *(strongest_transfer(measures, model, eps) for eps in budgets),
        ]
        for model in measures.models
    ]
    names = " and ".join(map(attack_name, TRANSFERS))
    return make_table(
        "Clean images, and fooled by transfer from a clean substitute",
        ["model", *OUTCOME_NAMES, *(f"ε {eps_text(eps)}" for eps in budgets)],
        rows,
        f"%, {measures.seeds_text()}; n = {measures.num_images(CLEAN)} clean, "
        f"{measures.num_images(from_substitute(TRANSFERS[0]))} transferred (the stronger of "
        f"{names}); L∞, ε in pixel units",
    )
