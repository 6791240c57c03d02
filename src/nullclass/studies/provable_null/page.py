"""Page of the study ``provable-null``: proved and attacked rates, and the price of the proof."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import FlagItem, FlagList, Page, Section, Table, Terms, Text, section
from nullclass.report.formatting import WORST_CASE, attack_name, eps_text, rate_text
from nullclass.report.measures import Measure, Measures, differ
from nullclass.report.sections import (
    NULL_AWARE_TEXT,
    SCORED_TEXT,
    attack_terms,
    closing_sections,
    figure_sections,
    fill,
    flags_section,
    notes_of,
    subtitle,
    unfinished,
)
from nullclass.results.schema import CLEAN, Flag
from nullclass.results.store import Run
from nullclass.studies.provable_null.config import LEARNED, PROVABLE, VARIANTS
from nullclass.studies.provable_null.figures import FIGURES
from nullclass.studies.provable_null.measured import (
    Violations,
    clean_outcomes,
    find_violations,
    proved_on_attacked_images,
    radii,
    trained_for,
    training_of,
)
from nullclass.studies.provable_null.tables import (
    bracket_table,
    radius_table,
    rates_table,
    shown_budgets,
    summary_table,
    verifiers_text,
)

MEANINGS = {
    **{
        name: (
            f"Trained with interval bounds, without a null class. It answers what interval bounds "
            f"prove within {radius:g} of the image, else null; for ε {2 * radius:g}. The zoo's "
            f"provable-{2 * radius:g} is this model of the full preset."
        )
        for name, radius in PROVABLE.items()
    },
    "adversarial-null": (
        "A null class learned by adversarial training: the label or null is correct on adversarial "
        "images, −log(p_label + p_null)."
    ),
    "abstain": (
        "The abstain class of Sheikholeslami et al. 2021: trained with bounds under which the "
        "label or null beats every other class."
    ),
    "clean": "Trained on clean images; never null.",
}

TERMS = [
    (
        "radius, r",
        "A model that proves its answers answers y only if its network is proved to predict y on "
        "every image within r.",
    ),
    (
        "proved",
        "True for every attack: the bounds include rounding. Proved rates are lower bounds; what "
        "is not proved can still be true.",
    ),
    (
        "certified accuracy at r",
        "Share of images whose true label is proved within r. For a model that proves its answers "
        "it is the proved RAR at ε = 2r.",
    ),
    (
        "margin",
        "A lower bound, over all images within the radius, of the logit of a class minus the "
        "largest other logit.",
    ),
]

SENTENCES = (
    "No attack can lower the RAR (robust accuracy with rejection) below {proved} ({verifiers}, "
    "{norm}, n = {num_proved}).",
    "Under {attacker} the models with a learned null class keep at most {left} (n = "
    "{num_attacked}).{same_images}{beyond}",
    "Besides the loss, the trainings differ: {trainings}.",
    "No proof is broken: {num_checked:,} rows, clean or attacked, were checked against a proof at "
    "their ε or a larger one.",
    "No attacked image has a proof, so no proof could be broken.{nothing_checked}",
    "The price: {price}.",
)


def page(run: Run) -> Page:
    """The page of the study."""
    measures, violations = Measures(run), find_violations(run)
    models = [(model, MEANINGS[model]) for model in measures.models if model in MEANINGS]
    return Page(
        "Is a proved null worth more than a learned one?",
        f"Study {run.info.get('study', 'provable-null')} · {subtitle(run, measures)}",
        findings(run, measures, violations),
        [
            *_broken_section(violations),
            *section(
                "Models and rates",
                Terms(models) if models else None,
                *(rates_table(run, measures, eps) for eps in _main_budgets(run, measures)),
                bracket_table(run, measures) if measures.budgets(PROOF) else None,
                radius_table(run),
                notes_of(run),
            ),
            *figure_sections(run, FIGURES, ("answered-refused", "training", "gallery")),
            *flags_section(run),
            _threat_model(measures),
            *closing_sections(run, TERMS),
        ],
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal."""
    return [summary_table(run, Measures(run))]


def findings(run: Run, measures: Measures, violations: Violations) -> list[str]:
    """Sentences of the first paragraph."""
    is_broken = len(violations.rows) > 0
    values: dict[str, Any] = {
        "num_checked": None if is_broken else violations.num_checked or None,
        "nothing_checked": None if violations.num_checked else "",
        "trainings": _training_differences(run, measures),
    }
    values |= _proved(run, measures) | _learned(run, measures)
    return [*_broken(violations), *unfinished(run, measures, VARIANTS), *fill(SENTENCES, values)]


def _rate(measure: Measure) -> str:
    return rate_text(measure, has_n=False)


def _own(run: Run, measures: Measures) -> list[Measure]:
    """The proved RAR of each model with a radius, at twice the radius."""
    found = (measures.find(m, PROOF, "rar_proved", 2 * r) for m, r in radii(run).items())
    return [measure for measure in found if measure is not None]


def _proved(run: Run, measures: Measures) -> dict[str, Any]:
    """Proved RAR, and its price."""
    own, prices = _own(run, measures), []
    if not own:
        return {}
    for rar in own:
        _, null, fooled = clean_outcomes(measures, rar.model)
        dos = measures.find(rar.model, UNION, "null_dos", rar.eps)
        if null is not None and fooled is not None:
            forced = (
                f", and an attack within ε {eps_text(rar.eps)} makes it null on {_rate(dos)} (n = "
                f"{dos.num_images:,})"
                if dos is not None
                else ""
            )
            prices.append(
                f"{rar.model} is null on {_rate(null)} of clean images and fooled on "
                f"{_rate(fooled)} (n = {null.num_images:,}){forced}"
            )
    rates = [f"{_rate(rar)} of {rar.model} at ε {eps_text(rar.eps)}" for rar in own]
    return {
        "proved": ", ".join(rates),
        "verifiers": verifiers_text(run),
        "norm": measures.norm(PROOF),
        "num_proved": measures.num_images(PROOF),
        "price": "; ".join(prices) or None,
    }


def _learned(run: Run, measures: Measures) -> dict[str, Any]:
    """RAR of the models with a learned null class under attack, and proved on the same images."""
    left, same, last = [], [], 0.0
    for proved in _own(run, measures):
        known = measures.find_all(LEARNED, UNION, "rar", proved.eps)
        if not known:
            continue
        last = proved.eps
        rates = ", ".join(f"{rar.model} {_rate(rar)}" for rar in known)
        left.append(f"at ε {eps_text(last)} {rates}")
        best = max(known, key=lambda rar: rar.mean)
        here = proved_on_attacked_images(run, proved, best.model)
        if here is None:
            continue
        verdict = f"not distinguishable from {best.model}"
        if differ(here, best):
            verdict = f"{'more' if here.mean > best.mean else 'less'} than {best.model}"
        same.append(
            f"{_rate(here)} of {here.model} at ε {eps_text(here.eps)} (n = {here.num_images:,}), "
            f"{verdict}"
        )
    if not left:
        return {}
    for_eps = {name: trained_for(run, name) for name in LEARNED}
    trained = {name: eps for name, eps in for_eps.items() if eps is not None}
    beyond = [name for name, eps in trained.items() if eps < last - 1e-9]
    names = " and ".join(f"{name} (ε {eps_text(trained[name])})" for name in beyond)
    text = f" ε {eps_text(last)} is larger than the training ε of {names}."
    return {
        "attacker": measures.attacker(),
        "left": "; ".join(dict.fromkeys(left)),
        "num_attacked": measures.num_images(UNION),
        "same_images": f" On the same images the proved RAR is {'; '.join(same)}." if same else "",
        "beyond": text if beyond else "",
    }


def _training_differences(run: Run, measures: Measures) -> str | None:
    """Network, epochs and distortion of the models, those in which they differ."""
    trainings = {model: training_of(run, model) for model in measures.models}
    trainings = {model: training for model, training in trainings.items() if training}
    facts = {
        model: (
            f"network {training['architecture']}",
            f"{training['recipe']['epochs']} epochs",
            "distorted images" if training["recipe"].get("jitter") else "undistorted images",
        )
        for model, training in trainings.items()
    }
    differing = [n for n in range(3) if len({of[n] for of in facts.values()}) > 1]
    if not differing:
        return None
    return "; ".join(f"{m} {', '.join(of[n] for n in differing)}" for m, of in facts.items())


def _broken(violations: Violations) -> list[str]:
    rows = violations.rows
    if rows.empty:
        return []
    first, num = rows.iloc[0], len(rows[["model", "seed", "image"]].drop_duplicates())
    return [
        f"A PROOF IS BROKEN for {num} image{'s' if num > 1 else ''}, such as test image "
        f"{first['image']} of {first['model']}, seed {first['seed']}: {_violation(first)}. Bounds, "
        "model or attack are wrong: do not trust any number of this page."
    ]


def _violation(row: Any) -> str:
    attack = str(row["attack"])
    by = "without an attack" if attack == CLEAN else f"under the {attack_name(attack)}"
    return (
        f"proved {row['claim']} at ε {eps_text(row['proved'])}, but {row['outcome']} at ε "
        f"{eps_text(row['eps_pixels'])} {by}"
    )


def _broken_section(violations: Violations) -> list[Section]:
    if violations.rows.empty:
        return []
    items = []
    for keys, of in violations.rows.groupby(["model", "seed", "claim"], sort=False):
        model, seed, _ = keys
        num = of["image"].nunique()
        message = f"{num} images; image {of.iloc[0]['image']} is {_violation(of.iloc[0])}."
        items.append(FlagItem(Flag("proof-broken", message), f"{model}, seed {seed}"))
    text = Text("A proof has no exceptions: one image is enough to distrust this page.")
    return [Section("A proof is broken", [text, FlagList(items)])]


def _main_budgets(run: Run, measures: Measures) -> Sequence[float]:
    """The ε that the models are made for, if they were attacked there; else all."""
    budgets = shown_budgets(measures)
    made_for = {round(2 * radius, 9) for radius in radii(run).values()}
    return [eps for eps in budgets if round(eps, 9) in made_for] or budgets


def _threat_model(measures: Measures) -> Section:
    return Section(
        "Threat model",
        [
            Text(
                "White-box: the attacker knows the weights and the null class and takes gradients, "
                "through the bounds where a model proves its answers. The "
                f"{attack_name(WORST_CASE)} is {NULL_AWARE_TEXT} Success is a wrong class; images "
                f"that are forced to null are counted apart (null-DoS). {SCORED_TEXT}"
            ),
            Text(
                "A proved rate is a lower bound on these test images, against every attack. No "
                "claim is made about images of no class, other norms, larger ε, or the accuracy of "
                "the network."
            ),
            Terms([(name, text) for name, text in attack_terms(measures) if name != PROOF]),
        ],
    )
