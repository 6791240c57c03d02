"""Tables of the study ``detectors``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.report.blocks import Table
from nullclass.report.formatting import ends_text, eps_text, percent
from nullclass.report.measures import Measures
from nullclass.report.tables import make_table, prediction_costs
from nullclass.results.info import CostInfo
from nullclass.results.schema import CLEAN, UNION
from nullclass.studies.detectors.config import UNAWARE
from nullclass.studies.detectors.measured import (
    least_not_fooled,
    models_on,
    not_fooled,
    rule_of,
)

RATES = {"aer": "AER", "rar": "RAR", "null_dos": "null-DoS"}
NETWORK_TITLES = {
    "clean": "the network trained on clean images",
    "adversarial": "the adversarially trained network",
    "strong": "the wider network adversarially trained for 30 epochs",
    "interval": "the network trained with interval bounds",
}


def num_images(measures: Measures, models: Collection[str], attacks: Collection[str]) -> str:
    """Number of images per seed of models under attacks, as ``n = …``."""
    of = {m.num_images for m in measures.all if m.model in models and m.attack in attacks}
    return f"n = {ends_text(of or {0}, '{:,}')}"


def unaware_names(network: str) -> list[str]:
    """Values of the ``attack`` column of the unaware attacks on a network."""
    return [f"{name} on {network}" for name in UNAWARE]


def unaware_table(measures: Measures, network: str, eps: float) -> Table:
    """Clean images and unaware attacks: what the papers of detectors report."""
    rows: list[list[Any]] = []
    models = models_on(measures, network)
    for model in models:
        row: list[Any] = [rule_of(model)]
        row += [measures.find(model, CLEAN, outcome) for outcome in OUTCOME_NAMES]
        rows.append([*row, *(not_fooled(measures, model, attack, eps) for attack in UNAWARE)])
    headings = [
        "way to refuse",
        *((name, f"clean, {num_images(measures, models, [CLEAN])}") for name in OUTCOME_NAMES),
        *((name, num_images(measures, models, [f"{name} on {network}"])) for name in UNAWARE),
    ]
    caption = (
        f"%, L∞, ε {eps_text(eps)} in pixel units, {measures.seeds_text()}. Not fooled: share "
        "refused or correct of images made on the network without a way to refuse, as in the "
        "detectors' papers; nearest: the nearest image that fools the network."
    )
    title = f"Attackers who do not know the rule, on {NETWORK_TITLES[network]}"
    return make_table(title, headings, rows, caption, measures.spread_note(), digits=1)


def aware_table(measures: Measures, network: str) -> Table:
    """The worst case at every ε, and what a prediction costs."""
    costs, at = prediction_costs(measures.run), measures.union_budgets()
    columns = [(metric, eps) for metric in ("aer", "rar") for eps in at]
    columns += [("null_dos", eps) for eps in at[-1:]]
    rows: list[list[Any]] = []
    models = models_on(measures, network)
    for model in models:
        found = [measures.find(model, UNION, metric, eps) for metric, eps in columns]
        rows.append([rule_of(model), *found, *cost_cells(costs.get(model))])
    headings = [
        "way to refuse",
        *((RATES[metric], f"ε {eps_text(eps)}") for metric, eps in columns),
        ("passes", "each"),
        ("CPU", "ms"),
    ]
    caption = (
        f"%, {measures.norm(UNION)}, ε in pixel units, {num_images(measures, models, [UNION])}, "
        f"{measures.seeds_text()}. Worst case per image over the worst-case ensemble on the model "
        "itself, which takes gradients through the score, and the unaware images, at that ε or "
        "below. Passes of the network per prediction, forward + backward; processor time per "
        "prediction in batches of 64, on the run's machine. A dash: not attacked."
    )
    title = f"An attacker who knows the rule, on {NETWORK_TITLES[network]}"
    return make_table(title, headings, rows, caption, measures.spread_note(), digits=1)


def cost_cells(cost: CostInfo | None) -> list[str]:
    """Passes and milliseconds of a prediction."""
    if cost is None:
        return ["–", "–"]
    passes = f"{cost.num_forwards:g}"
    if cost.num_backwards:
        passes += f" + {cost.num_backwards:g}"
    return [passes if cost.num_forwards else "bounds", f"{cost.cpu_ms:.2g}"]


def summary_table(measures: Measures) -> Table:
    """Unaware and aware attacks at the largest ε, for the terminal."""
    last = max(measures.union_budgets(), default=0.0)
    rows = []
    for model in measures.models:
        null = measures.find(model, CLEAN, "null")
        unaware = least_not_fooled(measures, model, last)
        rates = [measures.find(model, UNION, metric, last) for metric in RATES]
        cells = ["–" if m is None else percent(m.mean, 1) for m in (null, unaware, *rates)]
        rows.append([model, *cells])
    return make_table(
        f"Ways to refuse at ε {eps_text(last)}",
        ["model", "clean null", "unaware", *RATES.values()],
        rows,
        f"%, n = {measures.num_images(UNION)} attacked, {measures.num_images(CLEAN)} clean; "
        f"{measures.seeds_text()}; L∞, ε in pixel units. unaware: refused or correct, the least of "
        "three attacks without knowledge of the rule",
    )
