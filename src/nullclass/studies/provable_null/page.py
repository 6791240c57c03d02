"""Page of the study ``provable-null``: proved and attacked rates, and the price of the proof."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from nullclass.report.blocks import FlagItem, FlagList, Page, Section, Table, Terms, Text, section
from nullclass.report.formatting import WORST_CASE, attack_name, eps_text, rate_text
from nullclass.report.measures import Measure, Measures, differ
from nullclass.report.sections import NULL_AWARE_TEXT, SCORED_TEXT, fill, notes_of, study_page
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, PROOF, UNION, Flag
from nullclass.studies.provable_null.config import LEARNED, PROVABLE, VARIANTS
from nullclass.studies.provable_null.figures import FIGURES
from nullclass.studies.provable_null.measured import (
    configs,
    proved_on_attacked_images,
    radii,
    run_violations,
    stages,
)
from nullclass.studies.provable_null.tables import (
    clean_outcomes,
    models_table,
    radius_table,
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
    "A PROOF IS BROKEN (images: {num_broken}). The first is {first_broken}. Bounds, model or "
    "attack are wrong: do not trust any number of this page.",
    "No attack can lower the RAR (robust accuracy with rejection) below {proved} ({verifiers}, "
    "{norm}, n = {num_proved}).",
    "Under {attacker} the RAR of the models with a learned null class is at most: {left} (n = "
    "{num_attacked}).{same_images}{beyond}",
    "Besides the loss, the trainings differ: {trainings}.",
    "No proof is broken: {num_checked:,} rows, clean or attacked, were checked against a proof at "
    "their ε or a larger one.",
    "No attacked image has a proof, so no proof could be broken.{nothing_checked}",
    "The price: {price}.",
)

THREAT_MODEL = (
    "White-box: the attacker knows the weights and the null class and takes gradients, through the "
    f"bounds where a model proves its answers. The {attack_name(WORST_CASE)} is {NULL_AWARE_TEXT} "
    "Success is a wrong class; images that are forced to null are counted apart (null-DoS). "
    f"{SCORED_TEXT}",
    "A proved rate is a lower bound on these test images, against every attack. No claim is made "
    "about images of no class, other norms, larger ε, or the accuracy of the network.",
)


def page(run: Run) -> Page:
    """The page of the study."""
    measures = Measures(run)
    num_checked, violations = run_violations(run)
    models = [(model, MEANINGS[model]) for model in measures.models if model in MEANINGS]
    drawn = study_page(
        measures,
        "Is a proved null worth more than a learned one?",
        findings(measures, num_checked, violations),
        [
            *_broken_section(violations),
            *section(
                "Models and rates",
                Terms(models) if models else None,
                *(models_table(measures, eps) for eps in _main_budgets(measures)),
                radius_table(run),
                notes_of(run),
            ),
        ],
        figures=FIGURES,
        last=("answered-refused", "training", "gallery"),
        threat_model=THREAT_MODEL,
        terms=TERMS,
        variants=VARIANTS,
    )
    # a broken proof comes before everything else
    in_order = sorted(drawn.findings, key=lambda sentence: not sentence.startswith("A PROOF IS"))
    return replace(drawn, findings=in_order)


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal."""
    return [summary_table(Measures(run))]


def findings(measures: Measures, num_checked: int, violations: pd.DataFrame) -> list[str]:
    """Sentences of the first paragraph."""
    own = [measures.find(m, PROOF, "rar_proved", 2 * r) for m, r in radii(measures.run).items()]
    proved = [rate for rate in own if rate is not None]
    values: dict[str, Any] = {
        "num_checked": (num_checked or None) if violations.empty else None,
        "nothing_checked": None if num_checked else "",
        "trainings": _training_differences(measures.run),
    }
    if len(violations):
        values["num_broken"] = len(violations[["model", "seed", "image"]].drop_duplicates())
        first = violations.iloc[0]
        name = f"test image {first['image']} of {first['model']}, seed {first['seed']}"
        values["first_broken"] = f"{name}: {_violation(first)}"
    if proved:
        rates = (f"{_rate(rar)} of {rar.model} at ε {eps_text(rar.eps)}" for rar in proved)
        values |= {
            "proved": ", ".join(rates),
            "verifiers": verifiers_text(measures.run),
            "norm": measures.norm(PROOF),
            "num_proved": measures.num_images(PROOF),
            "price": "; ".join(_price(measures, rar) for rar in proved),
        }
    return fill(SENTENCES, values | _learned(measures, proved))


def _rate(measure: Measure) -> str:
    return rate_text(measure, has_n=False)


def _price(measures: Measures, rar: Measure) -> str:
    """Null and fooled on clean images, and null forced by an attack."""
    model, eps = rar.model, rar.eps
    _, null, fooled = clean_outcomes(measures, model)
    dos = measures.find(model, UNION, "null_dos", eps)
    if null is None or fooled is None:
        return f"not measured for {model}"
    text = (
        f"{model} is null on {_rate(null)} of clean images and fooled on {_rate(fooled)} (n = "
        f"{null.num_images:,})"
    )
    if dos is None:
        return text
    forced = f"an attack within ε {eps_text(eps)} makes it null on {_rate(dos)}"
    return f"{text}, and {forced} (n = {dos.num_images:,})"


def _learned(measures: Measures, proved: list[Measure]) -> dict[str, Any]:
    """RAR of the models with a learned null class under attack, and proved on the same images."""
    left, same, last = [], [], 0.0
    for rar in proved:
        known = measures.find_all(LEARNED, UNION, "rar", rar.eps)
        if not known:
            continue
        last = rar.eps
        left.append(f"at ε {eps_text(last)} {', '.join(f'{m.model} {_rate(m)}' for m in known)}")
        best = max(known, key=lambda measure: measure.mean)
        here = proved_on_attacked_images(measures.run, rar, best.model)
        if here is None:
            continue
        verdict = f"{'more' if here.mean > best.mean else 'less'} than {best.model}"
        if not differ(here, best):
            verdict = f"not distinguishable from {best.model}"
        same.append(
            f"{_rate(here)} of {here.model} at ε {eps_text(here.eps)} (n = {here.num_images:,}), "
            f"{verdict}"
        )
    if not left:
        return {}
    robust = {model: config.training.robust for model, config in configs(measures.run).items()}
    trained = {m: plan.settings["eps"] for m in LEARNED if (plan := robust.get(m)) is not None}
    smaller = [f"{m} (ε {eps_text(eps)})" for m, eps in trained.items() if eps < last - 1e-9]
    beyond = f" ε {eps_text(last)} is larger than the training ε of {' and '.join(smaller)}."
    return {
        "attacker": measures.attacker(),
        "left": "; ".join(dict.fromkeys(left)),
        "num_attacked": measures.num_images(UNION),
        "same_images": f" On the same images the proved RAR is {'; '.join(same)}." if same else "",
        "beyond": beyond if smaller else "",
    }


def _training_differences(run: Run) -> str | None:
    """Network, epochs and distortion of the models, those in which they differ."""
    facts = {}
    for model, config in configs(run).items():
        training = config.training
        trainings = stages(training)[::-1]
        facts[model] = {
            "network": f"network {training.architecture}",
            "epochs": f"{' + '.join(str(each.recipe.epochs) for each in trainings)} epochs",
            "images": "distorted images" if training.recipe.jitter else "undistorted images",
        }
    table = pd.DataFrame.from_dict(facts, orient="index")
    table = table.loc[:, table.nunique() > 1]
    if table.empty:
        return None
    return "; ".join(f"{model} {', '.join(of)}" for model, of in table.T.items())


def _violation(row: Any) -> str:
    attack = str(row["attack"])
    by = "without an attack" if attack == CLEAN else f"under the {attack_name(attack)}"
    return (
        f"proved {row['claim']} at ε {eps_text(row['proved'])}, but {row['outcome']} at ε "
        f"{eps_text(row['eps_pixels'])} {by}"
    )


def _broken_section(violations: pd.DataFrame) -> list[Section]:
    if violations.empty:
        return []
    items = []
    for (model, seed, _), of in violations.groupby(["model", "seed", "claim"], sort=False):
        num, first = of["image"].nunique(), of.iloc[0]
        message = f"Images: {num}. Image {first['image']} is {_violation(first)}."
        items.append(FlagItem(Flag(name="proof-broken", message=message), f"{model}, seed {seed}"))
    text = Text("A proof has no exceptions: one image is enough to distrust this page.")
    return [Section("A proof is broken", [text, FlagList(items)])]


def _main_budgets(measures: Measures) -> list[float]:
    """The ε that the models are made for, if they were attacked there; else all."""
    budgets = shown_budgets(measures)
    made_for = {round(2 * radius, 9) for radius in radii(measures.run).values()}
    return [eps for eps in budgets if round(eps, 9) in made_for] or budgets
