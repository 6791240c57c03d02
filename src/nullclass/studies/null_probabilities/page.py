"""Page of the study ``null-probabilities``: transfers, null probabilities by size, white-box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nullclass.metrics.rates import UNION, wilson_of
from nullclass.report.blocks import Block, Page, Section, Table, Terms, Text, section
from nullclass.report.formatting import GOALS, WORST_CASE, attack_name, eps_text, percent
from nullclass.report.measures import Measure, Measures
from nullclass.report.sections import (
    NULL_AWARE_TEXT,
    SCORED_TEXT,
    budgets_text,
    closing_sections,
    figure_sections,
    fill,
    flags_section,
    notes_of,
    subtitle,
    unfinished,
)
from nullclass.report.tables import union_table, white_box_table
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.config import CLEAN as BASE
from nullclass.studies.null_probabilities.config import PROBABILITIES, QUERIED, VARIANTS
from nullclass.studies.null_probabilities.figures import FIGURES
from nullclass.studies.null_probabilities.measured import (
    SUBSTITUTE,
    Criterion,
    Transfers,
    by_size,
    criteria,
    curve_fits,
)
from nullclass.studies.null_probabilities.names import (
    MEANINGS,
    defences,
    named,
    names_of,
    range_of,
    short,
)
from nullclass.studies.null_probabilities.tables import (
    LABEL_ATTACK,
    clean_table,
    criteria_table,
    label_attack_table,
    matrix_table,
    mean_text,
    queries_table,
    strict_table,
    substitute_table,
    summary_table,
)

HOLDS = 0.9
"""RAR from which a model is said to hold."""

TABLE_FILE = "table_transfers.csv"

SENTENCES = (
    "Under {attacker} an RAR (robust accuracy with rejection) of {line} % is kept, by the whole "
    "95 % Wilson interval, by these defences: {holding}. Undecided with {num} images: {undecided}.",
    "At ε {eps} the worst case fools the defences on {aers}{base} (AER, n = {num}).",
    "Adversarial images of the clean substitute, of another architecture, fool {transferred} (ε "
    "{budgets}, n = {num_transferred}).",
    "The best other source at ε {last} fools {worst_sources} (n = {num_transferred}).",
    "{label_attack}, which sees only labels, fools the defences on {label_rates} at ε {label_eps} "
    "(n = {num_label}).",
    "The models with NULL probabilities meet {met} of {num_criteria} criteria of the table below "
    "({by_model}).",
)

TERMS = [
    (
        "f, the null curve",
        "Target probability of null by the size of a perturbation: how often perturbations of that "
        "size fool the clean model.",
    ),
    ("ε_max, N_max", "The smallest size where f is 1; training uses sizes up to it."),
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

OWN_ATTACKS = {
    LABEL_ATTACK: "fool",
    WORST_CASE: "fool",
    "pgd-force-null": "force-null",
    f"{WORST_CASE}-force-null": "force-null",
}
"""Attacks on each model itself and their objectives."""


def page(run: Run) -> Page:
    """The page of the study."""
    measures = Measures(run)
    transfers = Transfers(run, measures)
    fits = curve_fits(run, by_size(run))
    found = criteria(measures, transfers, fits)
    has_union = bool(measures.union_budgets("rar"))
    white_box: list[Block] = [
        *(named(white_box_table(measures, m)) for m in ("aer", "rar") if has_union),
        *([strict_table(measures)] if has_union else []),
    ]
    matrices = [
        matrix_table(transfers, measures, attack, eps)
        for attack in transfers.attacks[::-1]
        for eps in transfers.budgets
    ]
    files = {TABLE_FILE: _csv(transfers)} if matrices else {}
    models = [(short(model), MEANINGS[model]) for model in measures.models if model in MEANINGS]
    return Page(
        "Do NULL probabilities reject adversarial images of a substitute?",
        f"Study null-probabilities · {subtitle(run, measures)}",
        findings(run, measures, transfers, found),
        [
            *section(
                "Models and criteria",
                Terms(models) if models else None,
                _epochs(run),
                criteria_table(measures, found, transfers, fits) if found else None,
                clean_table(measures) if measures.budgets(CLEAN) else None,
                notes_of(run),
            ),
            *section("White-box attacks", *white_box),
            *section(
                "Attackers without the model",
                substitute_table(transfers, measures) if SUBSTITUTE in transfers.sources else None,
                label_attack_table(measures) if measures.budgets(LABEL_ATTACK) else None,
                queries_table(run, measures),
            ),
            *figure_sections(run, FIGURES),
            *(section("Transfers in full", Text(_MATRICES), *matrices) if matrices else []),
            *flags_section(run),
            _threat_model(measures, transfers),
            *closing_sections(run, TERMS),
        ],
        files,
    )


_MATRICES = (
    "The numbers of the heat maps, with transfer rates. Intervals are in "
    f"{TABLE_FILE}, in the run's folder of figures."
)


def _csv(transfers: Transfers) -> bytes:
    table = transfers.table()
    return table.to_csv(index=False, float_format="%.7g", lineterminator="\n").encode()


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal."""
    measures = Measures(run)
    union = union_table(measures) if measures.union_budgets() else None
    return [summary_table(measures), *([union] if union else [])]


def findings(
    run: Run, measures: Measures, transfers: Transfers, found: Sequence[Criterion]
) -> list[str]:
    """Sentences of the first paragraph."""
    values = _worst_case(measures) | _transferred(measures, transfers) | _criteria(found)
    return [*unfinished(run, measures, VARIANTS), *fill(SENTENCES, values)]


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
    of = {eps: measures.find_all(models, UNION, "rar", eps) for eps in budgets}

    def listed(verdict: bool | None) -> str:
        names = {eps: [m.model for m in found if holds(m) is verdict] for eps, found in of.items()}
        return "; ".join(f"ε {eps_text(eps)}: {names_of(names[eps])}" for eps in budgets)

    eps = budgets[-1]
    base = measures.find(BASE, UNION, "aer", eps)
    aers = measures.find_all(models, UNION, "aer", eps)
    return {
        "attacker": measures.attacker(),
        "line": percent(HOLDS, 0),
        "holding": listed(True),
        "undecided": listed(None),
        "num": measures.num_images(UNION),
        "eps": eps_text(eps),
        "aers": range_of(aers) if aers else None,
        "base": f", the clean model on {mean_text(base.values, 1)} %" if base else "",
    }


def _transferred(measures: Measures, transfers: Transfers) -> dict[str, Any]:
    """Rates of attacks by attackers who do not have the model."""
    values: dict[str, Any] = {}
    budgets = transfers.budgets
    targets = [model for model in transfers.targets if model in (BASE, *PROBABILITIES)]
    parts, worst = [], []
    for target in targets:
        found = [transfers.strongest(SUBSTITUTE, target, eps) for eps in budgets]
        rates = [mean_text(measure.values, 1) for measure in found if measure is not None]
        if rates:
            name = "the clean model" if target == BASE else short(target)
            parts.append(f"{name} on {' / '.join(rates)} %")
        others = [source for source in transfers.sources if source not in (SUBSTITUTE, target)]
        pairs = (
            [(s, transfers.strongest(s, target, budgets[-1])) for s in others] if budgets else []
        )
        known = [(source, measure) for source, measure in pairs if measure is not None]
        if known and target != BASE:
            source, measure = max(known, key=lambda pair: pair[1].mean)
            origin = "its substitute by queries" if source == QUERIED else short(source)
            worst.append(f"{short(target)} on {mean_text(measure.values, 1)} % ({origin})")
    if parts:
        values |= {
            "transferred": ", ".join(parts),
            "budgets": " / ".join(map(eps_text, budgets)),
            "last": eps_text(budgets[-1]),
            "num_transferred": transfers.num_images,
            "worst_sources": ", ".join(worst) or None,
        }
    for eps in measures.budgets(LABEL_ATTACK)[-1:]:
        rates_of = measures.find_all(defences(measures.models), LABEL_ATTACK, "fooled", eps)
        values |= {
            "label_attack": attack_name(LABEL_ATTACK),
            "label_rates": range_of(rates_of) if rates_of else None,
            "label_eps": eps_text(eps),
            "num_label": measures.num_images(LABEL_ATTACK),
        }
    return values


def _criteria(found: Sequence[Criterion]) -> dict[str, Any]:
    """Number of criteria that are met."""
    if not found:
        return {}
    parts = []
    for model in dict.fromkeys(criterion.model for criterion in found):
        of = [criterion.is_met for criterion in found if criterion.model == model]
        parts.append(f"{short(model)}: {sum(of)} of {len(of)}")
    met = sum(criterion.is_met for criterion in found)
    return {"met": met, "num_criteria": len(found), "by_model": ", ".join(parts)}


def _epochs(run: Run) -> Block | None:
    """Number of epochs, if models differ."""
    by: dict[int, list[str]] = {}
    for trial in run.trials:
        of = by.setdefault(len(trial.history), [])
        if trial.model not in of:
            of.append(trial.model)
    by.pop(0, None)
    if len(by) < 2:
        return None
    parts = (f"{num} epoch{'s' * (num > 1)}: {names_of(of)}" for num, of in sorted(by.items()))
    return Text(f"Training lengths differ, which also affects clean accuracy. {'; '.join(parts)}.")


def _threat_model(measures: Measures, transfers: Transfers) -> Section:
    pairs = [
        (
            f"{attack_name(attack)}, transferred",
            f"made on {len(transfers.sources)} sources, L∞, ε "
            f"{', '.join(map(eps_text, transfers.budgets))} in pixel units, "
            f"{transfers.num_images} test images per seed; success on the source: a wrong class",
        )
        for attack in transfers.attacks
    ]
    pairs += [
        (
            attack_name(attack),
            f"made on the scored model, {measures.norm(attack)}, "
            f"{budgets_text(measures, attack)}, {measures.num_images(attack)} test images per "
            f"seed; success: {GOALS[objective]}",
        )
        for attack, objective in OWN_ATTACKS.items()
        if measures.budgets(attack)
    ]
    if measures.budgets(UNION):
        pairs.append(
            (
                "union",
                "AER, RAR, strict and null-DoS: the worst case per image over all these attacks at "
                "that ε or below and the clean image, over the images that every attack was run "
                f"on: {measures.num_images(UNION)} per seed",
            )
        )
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
            Terms(pairs),
        ],
    )
