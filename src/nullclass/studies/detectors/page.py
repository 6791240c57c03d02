"""Page of the study ``detectors``: which ways to refuse survive an attacker who knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nullclass.experiments.detector_plan import CONSISTENCY
from nullclass.report.blocks import Page, Table, Terms, section
from nullclass.report.formatting import WORST_CASE, attack_name, eps_text, percent, rate_text
from nullclass.report.measures import Measure, Measures, differ
from nullclass.report.sections import NULL_AWARE_TEXT, SCORED_TEXT, fill, notes_of, study_page
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, PROOF, UNION
from nullclass.studies.detectors.config import (
    ADVERSARIAL,
    CONSISTENCY_SETTINGS,
    INTERVAL,
    NONE,
    NULL_RATE,
    RADIUS,
    STRONG,
    VARIANTS,
)
from nullclass.studies.detectors.config import CLEAN as ORDINARY
from nullclass.studies.detectors.config import PROOF as BY_PROOF
from nullclass.studies.detectors.figures import FIGURES
from nullclass.studies.detectors.measured import (
    SURVIVES,
    least_not_fooled,
    networks,
    refusing,
    rule_of,
    survivors,
)
from nullclass.studies.detectors.tables import (
    NETWORK_TITLES,
    aware_table,
    num_images,
    summary_table,
    unaware_names,
    unaware_table,
)

TERMS = [
    (
        "survives",
        f"An attacker who knows the way to refuse fools fewer than {percent(SURVIVES, 0)} % of the "
        "images at the largest ε.",
    ),
    (
        "unaware",
        "The images are made on the network without a way to refuse: what the papers of most "
        "detectors report.",
    ),
    (
        "none",
        "The network without a way to refuse.",
    ),
    (
        "null-class",
        "A network of its own: trained on clean images with FGSM images as null, or adversarially "
        "trained with the label or null as correct. Unaware images come from the network without "
        "null.",
    ),
    (
        "consistency",
        f"Refuses where an inner attack of {CONSISTENCY_SETTINGS['num_steps']} steps within "
        f"{RADIUS:g} finds another class with a margin above the threshold (Palumbo et al. 2024).",
    ),
    (
        "proof",
        f"Answers what interval bounds prove within {RADIUS:g}; no threshold.",
    ),
]

SENTENCES = (
    "{ordinary}",
    "Attacks without knowledge of the rule: {unaware_best} refuses or answers rightly at "
    "least {unaware_rate} of the images (ε {eps}, the least of three attacks, {n_unaware}).",
    "The adversarially trained network keeps RAR {base} without refusing.{best}{not_better}",
    "On {strong_network}, consistency keeps RAR {strong} at clean null {strong_null}; without it "
    "the network keeps {strong_base} (ε {eps}).",
    "The proof keeps RAR {proof} (ε {eps}), and at least {proved} against every attack (n = "
    "{n_proved}).",
    "The price at ε {eps}: clean null {clean_null}, null-DoS {dos}.",
)

THREAT_MODEL = (
    "White-box: the attacker knows network, detector and threshold, and takes gradients through "
    f"the score. The {attack_name(WORST_CASE)} is {NULL_AWARE_TEXT} The unaware attacks know the "
    f"network only. {SCORED_TEXT}",
    f"Thresholds refuse {percent(NULL_RATE, 0)} % of held-out clean images, which are used neither "
    "in training nor in the test.",
)


def page(run: Run) -> Page:
    """The page of the study."""
    measures = Measures(run)
    last = measures.union_budgets()[-1:]
    return study_page(
        measures,
        "Which ways to refuse survive an attacker who knows them?",
        findings(measures),
        [
            *section(
                "Ways to refuse",
                *(aware_table(measures, network) for network in networks(measures)),
                *(unaware_table(measures, of, eps) for eps in last for of in networks(measures)),
                Terms(TERMS),
                notes_of(run),
            ),
        ],
        figures=FIGURES,
        threat_model=THREAT_MODEL,
        variants=VARIANTS,
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal."""
    return [summary_table(Measures(run))]


def findings(measures: Measures) -> list[str]:
    """Sentences of the first paragraph."""
    if not measures.union_budgets():
        return []
    eps = measures.union_budgets()[-1]
    values: dict[str, Any] = {"eps": eps_text(eps)}
    values |= {"ordinary": _ordinary(measures, eps)}
    values |= _unaware(measures, eps) | _adversarial(measures, eps)
    values |= _strong(measures, eps) | _proof(measures, eps)
    models = [m for network in networks(measures) for m in refusing(measures, network)]
    for name, attack, metric, at in (
        ("clean_null", CLEAN, "null", 0.0),
        ("dos", UNION, "null_dos", eps),
    ):
        found = [measure.mean for measure in measures.find_all(models, attack, metric, at)]
        values[name] = _range(found)
    return fill(SENTENCES, values)


def _ordinary(measures: Measures, eps: float) -> str | None:
    """Which ways to refuse survive on the network trained on clean images."""
    models = refusing(measures, ORDINARY)
    if not models:
        return None
    alive = survivors(measures, models, eps)
    broken = [model for model in models if model not in alive]
    subject = " and ".join(map(rule_of, alive)) if alive else "no way to refuse"
    rates = [measure.mean for measure in measures.find_all(broken, UNION, "aer", eps)]
    fooled = f"it fools {_range(rates)} of the images" if rates else ""
    if alive and rates:
        fooled = f"with the {len(broken)} others {fooled}"
    return (
        f"On {NETWORK_TITLES[ORDINARY]} {subject} survive{'s' if len(alive) < 2 else ''} an "
        f"attacker who knows it{f': {fooled}' if fooled else ''} (AER, ε {eps_text(eps)}, "
        f"{measures.norm(UNION)}, {len(models)} ways, {num_images(measures, models, [UNION])})."
    )


def _unaware(measures: Measures, eps: float) -> dict[str, Any]:
    """The best of the unaware rates on the network trained on clean images."""
    found = [(least_not_fooled(measures, m, eps), m) for m in refusing(measures, ORDINARY)]
    known = [(measure, model) for measure, model in found if measure is not None]
    if not known:
        return {}
    best, model = max(known, key=lambda pair: pair[0].mean)
    return {
        "unaware_best": rule_of(model),
        "unaware_rate": rate_text(best, has_n=False),
        "n_unaware": num_images(measures, [model], unaware_names(ORDINARY)),
    }


def _adversarial(measures: Measures, eps: float) -> dict[str, Any]:
    """RAR with and without a way to refuse on the adversarially trained network."""
    base = measures.find(f"{ADVERSARIAL}-{NONE}", UNION, "rar", eps)
    rates = measures.find_all(refusing(measures, ADVERSARIAL), UNION, "rar", eps)
    if base is None or not rates:
        return {}
    best = max(rates, key=lambda measure: measure.mean)
    verdict = "" if differ(best, base) else ", not distinguishable from it"
    better = [one for one in rates if one.mean > base.mean and differ(one, base)]
    worse = [one for one in rates if one.mean < base.mean and differ(one, base)]
    text = f" Distinguishably more: {_names(better)}; less: {_names(worse)}."
    return {
        "base": rate_text(base, has_n=True),
        "best": f" The most has {rule_of(best.model)}, {rate_text(best, has_n=False)}{verdict}.",
        "not_better": text,
    }


def _names(measures: Sequence[Measure]) -> str:
    return ", ".join(rule_of(measure.model) for measure in measures) or "none"


def _strong(measures: Measures, eps: float) -> dict[str, Any]:
    """RAR and clean null of consistency on the strong network, and RAR without it."""
    model = f"{STRONG}-{CONSISTENCY}"
    rar, base = (measures.find(name, UNION, "rar", eps) for name in (model, f"{STRONG}-{NONE}"))
    null = measures.find(model, CLEAN, "null", 0.0)
    if rar is None or base is None or null is None:
        return {}
    return {
        "strong_network": NETWORK_TITLES[STRONG],
        "strong": rate_text(rar, has_n=True),
        "strong_null": rate_text(null, has_n=True),
        "strong_base": rate_text(base, has_n=True),
    }


def _proof(measures: Measures, eps: float) -> dict[str, Any]:
    """Attacked and proved RAR of the proof."""
    model = f"{INTERVAL}-{BY_PROOF}"
    attacked = measures.find(model, UNION, "rar", eps)
    proved = measures.find(model, PROOF, "rar_proved", eps)
    if attacked is None or proved is None:
        return {}
    return {
        "proof": rate_text(attacked),
        "proved": rate_text(proved, has_n=False),
        "n_proved": f"{proved.num_images:,}",
    }


def _range(shares: Sequence[float]) -> str | None:
    """Smallest and largest share in percent."""
    if not shares:
        return None
    low, high = percent(min(shares), 1), percent(max(shares), 1)
    return f"{low} %" if low == high else f"{low} to {high} %"
