"""Tables of the study ``provable-null``: proved and attacked rates, and the price of the radius."""

from __future__ import annotations

from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import Cell, Table
from nullclass.report.formatting import attack_name, eps_text, percent, value_cell
from nullclass.report.measures import OUTCOMES, Measure, Measures
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run
from nullclass.studies.provable_null.measured import (
    bracket,
    by_radius,
    clean_outcomes,
    radii,
    training_minutes,
)

RATES: dict[str, tuple[str, str]] = {
    "aer": (UNION, "AER"),
    "rar": (UNION, "RAR"),
    "rar_proved": (PROOF, "RAR"),
    "strict": (UNION, "strict"),
    "strict_proved": (PROOF, "strict"),
    "null_dos": (UNION, "null-DoS"),
}
"""Metrics with their attack and heading."""

VERIFIER_NAMES = {"interval": "interval bounds", "crown-ibp": "CROWN-IBP bounds"}


def model_cell(model: str, radius_of: dict[str, float]) -> Cell:
    """A model, with its radius if it has one."""
    return Cell(model, f"r {eps_text(radius_of[model])}" if model in radius_of else "")


def shown_budgets(measures: Measures) -> list[float]:
    """ε of the attacks, ascending; without attacks, of the proofs."""
    return measures.union_budgets("rar") or measures.budgets(PROOF)


def num_images(measures: Measures, attack: str) -> str:
    """Number of images per seed as ``n = …``."""
    return f"n = {measures.num_images(attack)}" if measures.budgets(attack) else "n = 0"


def rates_table(run: Run, measures: Measures, eps: float) -> Table:
    """All rates of every model at one ε."""
    own, rows = radii(run), []
    for model in measures.models:
        rates = [measures.find(model, a, metric, eps) for metric, (a, _) in RATES.items()]
        cells = map(value_cell, [*clean_outcomes(measures, model), *rates])
        rows.append([model_cell(model, own), *cells, Cell(minutes_text(run, model))])
    return Table(
        f"All models at ε {eps_text(eps)}",
        [
            Cell("model"),
            *(Cell(outcome, f"clean, {num_images(measures, CLEAN)}") for outcome in OUTCOMES),
            *(
                Cell(name, f"{'proved' if a == PROOF else 'attacked'}, {num_images(measures, a)}")
                for a, name in RATES.values()
            ),
            Cell("training", "minutes"),
        ],
        rows,
        f"%. {sources_text(run, measures)} RAR and strict: attacks give upper bounds, proofs lower "
        "bounds. AER and null-DoS under attack are lower bounds.",
        measures.spread_note(),
    )


def bracket_table(run: Run, measures: Measures) -> Table:
    """Proved and attacked RAR at every ε."""
    own = radii(run)
    budgets = sorted({*measures.budgets(PROOF), *measures.union_budgets("rar")})
    rows = []
    for model in measures.models:
        of = bracket(measures, model)
        proved, attacked = ({m.eps: m for m in found} for found in (of.proved, of.attacked))
        cells = [
            Cell(
                percent(proved[eps].mean) if eps in proved else "–",
                f"≤ {percent(attacked[eps].mean, 1)}" if eps in attacked else "",
            )
            for eps in budgets
        ]
        rows.append([model_cell(model, own), *cells])
    return Table(
        "RAR by ε: proved, and below it attacked",
        [Cell("model"), *(Cell(f"ε {eps_text(eps)}", "px") for eps in budgets)],
        rows,
        f"%. Proved {num_images(measures, PROOF)}, attacked {num_images(measures, UNION)}. "
        f"{sources_text(run, measures)} The attacked rate (≤) is from fewer images, so it may be "
        "below the proved one without breaking a proof.",
    )


def radius_table(run: Run) -> Table | None:
    """Outcomes of clean images by radius."""
    table = by_radius(run)
    if table.empty:
        return None
    at = sorted(table["radius"].unique())
    rows = []
    for model, of in table.groupby("model", sort=False):
        rates = {row["radius"]: row for row in of.to_dict("records")}
        rows.append([Cell(str(model)), *(_radius_cell(rates.get(radius)) for radius in at)])
    return Table(
        "Clean images by radius",
        [Cell("model"), *(Cell(f"r {eps_text(r)}", f"ε {eps_text(2 * r)}") for r in at)],
        rows,
        f"%, n = {int(table['num_images'].min()):,} test images, no attack. Above: correct when "
        "only answers proved within r are given; this is the proved RAR at ε = 2r. Below: null / "
        "fooled. Null-DoS is in the tables by ε.",
    )


def _radius_cell(rates: dict[object, float] | None) -> Cell:
    if rates is None:
        return Cell("–")
    correct, null, fooled = (percent(rates[outcome]) for outcome in OUTCOMES)
    return Cell(correct, f"{null} / {fooled}")


def minutes_text(run: Run, model: str) -> str:
    """Minutes of training, mean over seeds."""
    minutes = training_minutes(run, model)
    return "–" if minutes is None else f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"


def sources_text(run: Run, measures: Measures) -> str:
    """Attacks, verifiers and seeds behind the rates."""
    parts = []
    if measures.budgets(UNION):
        names = " and ".join(map(attack_name, measures.attacks()))
        parts.append(
            f"Attacked: worst case per image over {names} at that ε or below; "
            f"{measures.norm(UNION)}."
        )
    if measures.budgets(PROOF):
        parts.append(f"Proved: {verifiers_text(run)}.")
    return f"{' '.join(parts)} {measures.seeds_text().capitalize()}."


def verifiers_text(run: Run) -> str:
    """Names of the verifiers."""
    found = {name for trial in run.trials for name in trial.certified["verifier"].unique()}
    return " and ".join(VERIFIER_NAMES.get(name, name) for name in sorted(found))


def summary_table(run: Run, measures: Measures) -> Table:
    """Clean outcomes, proved and attacked rates for the terminal."""
    own, rows = radii(run), []
    for model in measures.models:
        radius = f" (r {eps_text(own[model])})" if model in own else ""
        clean = "/".join(_percent(measure, 2) for measure in clean_outcomes(measures, model))
        for index, eps in enumerate(shown_budgets(measures) or [0.0]):
            rates = [_percent(measures.find(model, PROOF, "rar_proved", eps), 2)]
            for metric in ("rar", "aer", "null_dos"):
                rates.append(_percent(measures.find(model, UNION, metric, eps)))
            names = ["", ""] if index else [model + radius, clean]
            rows.append([Cell(text) for text in (*names, eps_text(eps), *rates)])
    headings = ("model", "clean c/n/f", "ε", "RAR proved", "RAR", "AER", "null-DoS")
    counts = {CLEAN: "clean", UNION: "attacked", PROOF: "proved"}
    images = ", ".join(f"{num_images(measures, a)} {name}" for a, name in counts.items())
    return Table(
        "Proved, and under attack",
        [Cell(heading) for heading in headings],
        rows,
        f"%, {images}; {measures.seeds_text()}; ε in pixel units. RAR: correct when clean, never "
        "fooled; proved against every attack. c/n/f: clean correct, null, fooled",
    )


def _percent(measure: Measure | None, digits: int = 1) -> str:
    return "–" if measure is None else percent(measure.mean, digits)
