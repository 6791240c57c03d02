"""Tables of the study ``provable-null``: what is proved beside what attacks left, and the price."""

from __future__ import annotations

from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import Cell, Table
from nullclass.report.measures import (
    Measures,
    attack_name,
    eps_text,
    percent,
    value_cell,
)
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run
from nullclass.studies.provable_null.proved import (
    bracket,
    by_radius,
    clean_triple,
    minutes,
    proved_budgets,
    radii,
)

RATES: dict[str, tuple[str, str, str]] = {
    "aer": (UNION, "AER", "attacks"),
    "rar": (UNION, "RAR", "attacks"),
    "rar_proved": (PROOF, "RAR", "proved"),
    "strict": (UNION, "strict", "attacks"),
    "strict_proved": (PROOF, "strict", "proved"),
    "null_dos": (UNION, "null-DoS", "attacks"),
}
"""Metric to where it stands, its heading, and who says so."""


VERIFIER_NAMES = {"interval": "interval bounds", "crown-ibp": "CROWN-IBP bounds"}
"""Verifiers as they are written; others by the name they have in the rows."""


def model_cell(model: str, radius_of: dict[str, float]) -> Cell:
    """A model, with its radius if it has one."""
    radius = radius_of.get(model)
    return Cell(model, "" if radius is None else f"r {eps_text(radius)}")


def shown_budgets(measures: Measures) -> list[float]:
    """Eps at which models were attacked, rising; without attacks, where something is proved."""
    return measures.union_budgets("rar") or proved_budgets(measures)


def rates_table(run: Run, measures: Measures, eps: float) -> Table:
    """Everything about every model at one eps."""
    radius_of = radii(run)
    rows = []
    for model in measures.models:
        rates = [
            measures.find(model, place, metric, eps) for metric, (place, _, _) in RATES.items()
        ]
        triple = map(value_cell, clean_triple(measures, model))
        took = minutes_text(minutes(run, model))
        rows.append([model_cell(model, radius_of), *triple, *map(value_cell, rates), Cell(took)])
    return Table(
        f"All models at ε {eps_text(eps)}",
        [
            Cell("model"),
            *(Cell(word, "clean") for word in ("correct", "null", "fooled")),
            *(Cell(heading, whose) for _, heading, whose in RATES.values()),
            Cell("training", "minutes"),
        ],
        rows,
        f"%. {sources_text(run, measures)} RAR and strict accuracy are at most what attacks left "
        "and at least what is proved; AER and null-DoS are at least what attacks did. "
        f"{spread_text(measures)}",
    )


def bracket_table(run: Run, measures: Measures) -> Table:
    """RAR at every eps: proved, and under it what attacks left."""
    radius_of = radii(run)
    budgets = sorted({*proved_budgets(measures), *measures.union_budgets("rar")})
    rows = []
    for model in measures.models:
        of = {point.eps: point for point in bracket(measures, model)}
        cells = [
            Cell(
                "–" if point is None or point.proved is None else percent(point.proved.mean),
                ""
                if point is None or point.attacked is None
                else f"≤ {percent(point.attacked.mean, 1)}",
            )
            for point in (of.get(eps) for eps in budgets)
        ]
        rows.append([model_cell(model, radius_of), *cells])
    return Table(
        "RAR at every ε: proved, and under it what attacks left",
        [Cell("model"), *(Cell(f"ε {eps_text(eps)}", "px") for eps in budgets)],
        rows,
        f"%. {sources_text(run, measures)} Above: proved, against every attack. Below (≤): what "
        "the attacks left, on fewer images, so that it may stand a little under the proved share "
        "without breaking a proof. Clean null and null-DoS are in the tables above.",
    )


def radius_table(run: Run) -> Table | None:
    """Clean images by radius."""
    table = by_radius(run)
    if table.empty:
        return None
    at = sorted(table["radius"].unique())
    rows = []
    for model, of in table.groupby("model", sort=False):
        shares = of.set_index("radius")
        cells = []
        for radius in at:
            if radius not in shares.index:
                cells.append(Cell("–"))
                continue
            told = shares.loc[radius]
            rest = f"{percent(told['null'])} / {percent(told['fooled'])}"
            cells.append(Cell(percent(told["correct"]), rest))
        rows.append([Cell(str(model)), *cells])
    num = int(table["num_images"].min())
    return Table(
        "Clean images by radius",
        [Cell("model"), *(Cell(f"r {eps_text(r)}", f"ε {eps_text(2 * r)}") for r in at)],
        rows,
        f"%, {num:,} test images, no attack. Above: answered rightly when only answers proved "
        "within r are given, which is the RAR proved at ε = 2r. Below: refused / answered wrongly. "
        "Null-DoS is in the tables by ε.",
    )


def minutes_text(told: tuple[float, ...]) -> str:
    """Minutes of training, the mean over seeds."""
    if not told:
        return "–"
    mean = sum(told) / len(told)
    return f"{mean:.0f}" if mean >= 10 else f"{mean:.1f}"


def sources_text(run: Run, measures: Measures) -> str:
    """Which attacks, on how many images, with which seeds, beside how many proofs."""
    told = [f"Clean: {measures.num_images(CLEAN)} test images."]
    if measures.budgets(UNION):
        attacks = " and ".join(
            attack_name(attack) for attack in measures.attacks() if attack != PROOF
        )
        told.append(
            f"Attacks: image by image the worst of {attacks} at that ε or below, "
            f"{measures.num_images(UNION)} images a seed, {measures.norm(UNION)}."
        )
    if measures.budgets(PROOF):
        told.append(f"Proved: {verifiers_text(run)}, {measures.num_images(PROOF)} test images.")
    return f"{' '.join(told)} {measures.seeds_text().capitalize()}."


def verifiers_text(run: Run) -> str:
    """Who proved, as it is written."""
    told = {name for trial in run.trials for name in trial.certified["verifier"].unique()}
    return " and ".join(VERIFIER_NAMES.get(name, name) for name in sorted(told))


def spread_text(measures: Measures) -> str:
    """What stands under each rate."""
    if len(measures.seeds) == 1:
        return "Below each rate: its 95 % Wilson interval over the images."
    return "Mean over seeds ± their standard deviation."
