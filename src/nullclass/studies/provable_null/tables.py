"""Tables of the study ``provable-null``: proved and attacked rates, and the price of the radius."""

from __future__ import annotations

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.report.blocks import Table
from nullclass.report.formatting import attack_name, eps_text, percent
from nullclass.report.measures import Measure, Measures
from nullclass.report.tables import make_table
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, PROOF, UNION
from nullclass.studies.provable_null.measured import by_radius, radii, training_minutes

SHOWN_RATES: dict[str, tuple[str, str]] = {
    "aer": (UNION, "AER"),
    "rar": (UNION, "RAR"),
    "rar_proved": (PROOF, "RAR"),
    "strict": (UNION, "strict"),
    "strict_proved": (PROOF, "strict"),
    "null_dos": (UNION, "null-DoS"),
}
"""Metrics with their attack and heading."""

VERIFIER_NAMES = {
    "interval": "interval bounds",
    "crown-ibp": "CROWN-IBP bounds",
    "cascade": "the cascade",
}


def clean_outcomes(measures: Measures, model: str) -> list[Measure | None]:
    """Rates of correct, null and fooled on clean images."""
    return [measures.find(model, CLEAN, outcome) for outcome in OUTCOME_NAMES]


def shown_budgets(measures: Measures) -> list[float]:
    """ε of the attacks, ascending; without attacks, of the proofs."""
    return measures.union_budgets("rar") or measures.budgets(PROOF)


def num_images(measures: Measures, attack: str) -> str:
    """Number of images per seed as ``n = …``."""
    return f"n = {measures.num_images(attack)}"


def model_names(run: Run) -> dict[str, tuple[str, str]]:
    """Cell of each model: its name, and its radius if it has one."""
    own = radii(run)
    return {t.model: (t.model, f"r {own[t.model]:g}" if t.model in own else "") for t in run.trials}


def models_table(measures: Measures, eps: float) -> Table:
    """All rates of every model at one ε."""
    names, minutes = model_names(measures.run), training_minutes(measures.run)
    rows = [
        [
            names[model],
            *clean_outcomes(measures, model),
            *(measures.find(model, a, metric, eps) for metric, (a, _) in SHOWN_RATES.items()),
            minutes_text(minutes.get(model)),
        ]
        for model in measures.models
    ]
    headings = [
        "model",
        *((outcome, f"clean, {num_images(measures, CLEAN)}") for outcome in OUTCOME_NAMES),
        *(
            (name, f"{'proved' if a == PROOF else 'attacked'}, {num_images(measures, a)}")
            for a, name in SHOWN_RATES.values()
        ),
        ("training", "minutes"),
    ]
    caption = (
        f"%. {sources_text(measures)} RAR and strict: attacks give upper bounds, proofs lower "
        "bounds. AER and null-DoS under attack are lower bounds."
    )
    title = f"All models at ε {eps_text(eps)}"
    return make_table(title, headings, rows, caption, measures.spread_note())


def radius_table(run: Run) -> Table:
    """Outcomes of clean images by radius."""
    table = by_radius(run)
    text = table.set_index(["model", "radius"])[[*OUTCOME_NAMES]].map(percent)
    at = sorted(table["radius"].unique())
    rows = []
    for model in table["model"].unique():
        of = text.loc[model].reindex(at).fillna("–")
        cells = zip(of["correct"], of["null"] + " / " + of["fooled"], strict=True)
        rows.append([model, *cells])
    n = f"{int(table['num_images'].min()):,}" if len(table) else "0"
    return make_table(
        "Clean images by radius",
        ["model", *((f"r {eps_text(r)}", f"ε {eps_text(2 * r)}") for r in at)],
        rows,
        f"%, n = {n} test images, no attack. Above: correct when only answers proved within r are "
        "given; this is the proved RAR at ε = 2r. Below: null / fooled. Null-DoS is in the tables "
        "by ε.",
    )


def minutes_text(minutes: float | None) -> str:
    """Minutes of a training."""
    return "–" if minutes is None else f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"


def sources_text(measures: Measures) -> str:
    """Attacks, verifiers and seeds behind the rates."""
    parts = []
    if measures.budgets(UNION):
        names = " and ".join(map(attack_name, measures.attacks()))
        parts.append(
            f"Attacked: worst case per image over {names} at that ε or below; "
            f"{measures.norm(UNION)}."
        )
    if measures.budgets(PROOF):
        parts.append(f"Proved: {verifiers_text(measures.run)}.")
    return f"{' '.join(parts)} {measures.seeds_text().capitalize()}."


def verifiers_text(run: Run) -> str:
    """Names of the verifiers."""
    found = {name for trial in run.trials for name in trial.certified["verifier"].unique()}
    return " and ".join(VERIFIER_NAMES.get(name, name) for name in sorted(found))


def summary_table(measures: Measures) -> Table:
    """Clean outcomes, proved and attacked rates for the terminal."""
    names, rows = model_names(measures.run), []
    columns = {"rar_proved": PROOF, "rar": UNION, "aer": UNION, "null_dos": UNION}
    for model in measures.models:
        found = clean_outcomes(measures, model)
        clean = "/".join("–" if rate is None else percent(rate.mean) for rate in found)
        for index, eps in enumerate(shown_budgets(measures) or [0.0]):
            rates = (measures.find(model, a, metric, eps) for metric, a in columns.items())
            first = ["", ""] if index else [" ".join(names[model]).strip(), clean]
            rows.append([*first, eps_text(eps), *rates])
    words = {CLEAN: "clean", UNION: "attacked", PROOF: "proved"}
    images = (f"{num_images(measures, attack)} {word}" for attack, word in words.items())
    return make_table(
        "Proved, and under attack",
        ["model", "clean c/n/f", "ε", "RAR proved", "RAR", "AER", "null-DoS"],
        rows,
        f"%, {', '.join(images)}; {measures.seeds_text()}; L∞, ε in pixel units. RAR: correct when "
        "clean, never fooled; proved against every attack. c/n/f: clean correct, null, fooled",
    )
