"""Page of the study ``null-probabilities``: transfers, null probabilities by size, white-box."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nullclass.metrics.rates import wilson_of
from nullclass.report.blocks import Block, Page, Section, Table, Terms, Text, section
from nullclass.report.formatting import (
    WORST_CASE,
    attack_name,
    eps_text,
    percent,
    range_text,
    spread_text,
)
from nullclass.report.measures import Measure, Measures
from nullclass.report.sections import (
    NULL_AWARE_TEXT,
    SCORED_TEXT,
    attack_terms,
    fill,
    notes_of,
    study_page,
)
from nullclass.report.tables import union_table, white_box_table
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, UNION
from nullclass.studies.null_probabilities.config import (
    BASE,
    ON,
    PROBABILITIES,
    QUERIED,
    SUBSTITUTES,
    TRANSFERS,
    VARIANTS,
    from_substitute,
)
from nullclass.studies.null_probabilities.figures import FIGURES
from nullclass.studies.null_probabilities.measured import (
    by_size,
    criteria,
    curve_fits,
    strongest_transfer,
    transfer_budgets,
    transfer_table,
)
from nullclass.studies.null_probabilities.names import (
    MEANINGS,
    defences,
    named,
    names_of,
    short,
)
from nullclass.studies.null_probabilities.tables import (
    LABEL_ATTACK,
    clean_table,
    criteria_table,
    label_attack_table,
    queries_table,
    strict_table,
    substitute_table,
    summary_table,
)

HOLDS = 0.9
"""RAR from which a model is said to hold."""

TABLE_FILE = "table_transfers.csv"

SENTENCES = (
    "At ε {eps} ({norm}) the worst case of all attacks fools the defences on {aers}{base} (AER, "
    "n = {num}).",
    "RAR (robust accuracy with rejection) under {attacker} is at least {line} %, by the whole 95 % "
    "Wilson interval, for: {holding}. Undecided with {num} images: {undecided}.",
    "Adversarial images made on the clean substitute, a network of another architecture, fool "
    "{transferred} (the stronger of FGSM and MI-FGSM, L∞, ε {budgets}, n = {num_transferred}).",
    "The best other source at ε {last} fools {worst_sources} (n = {num_transferred}).",
    "{label_attack}, which sees only labels, fools the defences on {label_rates} at ε {label_eps} "
    "(n = {num_label}).",
    "The models with NULL probabilities meet {met} of {num_criteria} criteria ({by_model}).",
)

TERMS = [
    (
        "f, the null curve",
        "Target probability of null by the size of a perturbation: how often perturbations of that "
        "size fool the clean model.",
    ),
    ("trained range", "Sizes up to the smallest where f is 1; training uses no larger ones."),
    (
        "size",
        "L∞: the largest change of a pixel; L2: the Euclidean length of the change, both in pixel "
        "units; L0: the share of pixels changed.",
    ),
    ("source, target", "The model that an attack is made on, and the model that is scored."),
    (
        "transfer rate",
        "Of the images that fool the source and that the target classifies correctly when clean, "
        "the share that fools the target.",
    ),
    (
        "substitute",
        "A model that the attacker trains: on the same data (clean, or with null), or on the "
        "target's answers to queries.",
    ),
]


def page(run: Run) -> Page:
    """The page of the study."""
    measures = Measures(run)
    fits = curve_fits(by_size(run))
    found = criteria(measures, fits)
    transfers = transfer_table(measures)
    has_union = bool(measures.union_budgets("rar"))
    files = {}
    if len(transfers):
        csv = transfers.to_csv(index=False, float_format="%.7g", lineterminator="\n")
        files[TABLE_FILE] = csv.encode()
    models = [(short(model), MEANINGS[model]) for model in measures.models if model in MEANINGS]
    return study_page(
        measures,
        "Do NULL probabilities reject adversarial images of a substitute?",
        findings(measures, transfers, found),
        [
            *section(
                "Models and criteria",
                Terms(models) if models else None,
                _epochs(run),
                criteria_table(measures, found, fits),
                clean_table(measures) if measures.budgets(CLEAN) else None,
                notes_of(run),
            ),
            *section(
                "White-box attacks",
                *(named(white_box_table(measures, m)) for m in ("aer", "rar") if has_union),
                strict_table(measures),
            ),
            *section(
                "Attackers without the model",
                substitute_table(measures),
                label_attack_table(measures),
                queries_table(measures),
            ),
            _threat_model(measures, transfers),
        ],
        figures=FIGURES,
        terms=TERMS,
        variants=VARIANTS,
        files=files,
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal."""
    measures = Measures(run)
    union = union_table(measures) if measures.union_budgets() else None
    return [summary_table(measures), *([union] if union else [])]


def findings(measures: Measures, transfers: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """Sentences of the first paragraph."""
    values = _worst_case(measures) | _transferred(measures, transfers) | _criteria(found)
    return fill(SENTENCES, values)


def holds(rar: Measure) -> bool | None:
    """Whether RAR is at least :data:`HOLDS` or below it by its whole interval; ``None`` if neither.

    The interval is over images, also for a mean over seeds, which share their images.
    """
    low, high = wilson_of(rar.mean, rar.num_images)
    return True if low >= HOLDS else False if high < HOLDS else None


def _worst_case(measures: Measures) -> dict[str, Any]:
    """Defences that hold, and AER at the largest ε."""
    models, budgets = defences(measures.models), measures.union_budgets("rar")
    if not budgets or not models:
        return {}

    def listed(verdict: bool | None) -> str:
        found = {
            eps: [
                m.model for m in measures.find_all(models, UNION, "rar", eps) if holds(m) is verdict
            ]
            for eps in budgets
        }
        return "; ".join(f"ε {eps_text(eps)}: {names_of(of)}" for eps, of in found.items())

    eps = budgets[-1]
    base = measures.find(BASE, UNION, "aer", eps)
    aers = measures.find_all(models, UNION, "aer", eps)
    return {
        "attacker": measures.attacker(),
        "line": percent(HOLDS, 0),
        "holding": listed(True),
        "undecided": listed(None),
        "num": measures.num_images(UNION),
        "norm": measures.norm(UNION),
        "eps": eps_text(eps),
        "aers": range_text(aers, short),
        "base": f", the clean model on {spread_text(base.mean, base.sd)} %" if base else "",
    }


def _transferred(measures: Measures, transfers: pd.DataFrame) -> dict[str, Any]:
    """Rates of attacks by attackers who do not have the model."""
    values: dict[str, Any] = {}
    budgets = transfer_budgets(measures)
    parts, worst = [], []
    for target in (BASE, *PROBABILITIES):
        found = [strongest_transfer(measures, target, eps) for eps in budgets]
        rates = [spread_text(rate.mean, rate.sd) for rate in found if rate is not None]
        if rates:
            name = "the clean model" if target == BASE else short(target)
            parts.append(f"{name} on {' / '.join(rates)} %")
        is_other = ~transfers["source"].isin([SUBSTITUTES[0], target])
        is_last = transfers["eps_pixels"] == transfers["eps_pixels"].max()
        others = transfers[is_other & is_last & (transfers["target"] == target)]
        if len(others) and target != BASE:
            best = others.loc[others["fooled_rate"].idxmax()]
            text = spread_text(best["fooled_rate"], best["fooled_sd"])
            is_own = best["source"] == QUERIED
            origin = "its substitute by queries" if is_own else short(best["source"])
            worst.append(f"{short(target)} on {text} % ({origin})")
    if parts:
        values |= {
            "transferred": ", ".join(parts),
            "budgets": " / ".join(map(eps_text, budgets)),
            "last": eps_text(budgets[-1]),
            "num_transferred": measures.num_images(from_substitute(TRANSFERS[0])),
            "worst_sources": ", ".join(worst) or None,
        }
    for eps in measures.budgets(LABEL_ATTACK)[-1:]:
        rates_of = measures.find_all(defences(measures.models), LABEL_ATTACK, "fooled", eps)
        values |= {
            "label_attack": attack_name(LABEL_ATTACK),
            "label_rates": range_text(rates_of, short),
            "label_eps": eps_text(eps),
            "num_label": measures.num_images(LABEL_ATTACK),
        }
    return values


def _criteria(found: pd.DataFrame) -> dict[str, Any]:
    """Number of criteria that are met."""
    if found.empty:
        return {}
    by_model = found.groupby("model", sort=False)["is_met"].agg(["sum", "size"])
    parts = (f"{short(str(model))}: {met} of {num}" for model, met, num in by_model.itertuples())
    met = found["is_met"].sum()
    return {"met": met, "num_criteria": len(found), "by_model": ", ".join(parts)}


def _epochs(run: Run) -> Block | None:
    """Number of epochs, if models differ."""
    epochs = {trial.model: len(trial.history) for trial in run.trials if len(trial.history)}
    if len(set(epochs.values())) < 2:
        return None
    parts = [
        f"{num} epoch{'s' * (num > 1)}: {names_of(m for m in epochs if epochs[m] == num)}"
        for num in sorted(set(epochs.values()))
    ]
    return Text(f"Training lengths differ, which also affects clean accuracy. {'; '.join(parts)}.")


def _threat_model(measures: Measures, transfers: pd.DataFrame) -> Section:
    budgets = ", ".join(map(eps_text, transfer_budgets(measures)))
    crafted = [
        (
            f"{attack_name(str(attack))}, transferred",
            f"made on {of['source'].nunique()} sources, L∞, ε {budgets} in pixel units, "
            f"{of['num_images'].min():,} test images per seed; success on the source: a wrong "
            "class",
        )
        for attack, of in transfers.groupby("attack")
    ]
    return Section(
        "Threat model",
        [
            Text(
                "Four attackers. The first has the training data and trains substitutes of another "
                "architecture, with and without null; the other models of this study are sources "
                "too. The second queries the target for labels and trains a substitute on the "
                "answers. The third queries for labels during the attack. The fourth has the "
                "target's weights, null class and gradients. Success is a wrong class; null is a "
                "failure. NULL probabilities were designed against the first two."
            ),
            Text(
                f"The white-box attack is the {attack_name(WORST_CASE)}, {NULL_AWARE_TEXT} "
                f"{SCORED_TEXT}"
            ),
            Terms([*crafted, *(pair for pair in attack_terms(measures) if ON not in pair[0])]),
        ],
    )
