"""Page of the study ``fgsm-null``: published and measured values, then a null-aware attack."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Page, Table, Text, section
from nullclass.report.formatting import FGSM, attack_name, eps_text, percent, range_text, rate_text
from nullclass.report.measures import Measures, differ
from nullclass.report.sections import NULL_AWARE_TEXT, SCORED_TEXT, fill, notes_of, study_page
from nullclass.report.tables import union_table, white_box_table
from nullclass.results.run import Run
from nullclass.results.schema import UNION
from nullclass.studies.fgsm_null.config import PIXEL
from nullclass.studies.fgsm_null.figures import FIGURES
from nullclass.studies.fgsm_null.loop import measures_of, rule
from nullclass.studies.fgsm_null.tables import (
    better_text,
    clean_table,
    compared,
    fgsm_table,
    published_table,
    reproduced,
    undetected,
    undetected_table,
)

HEADLINE_EPS = 0.3
"""Pixel units; the usual budget of MNIST defences."""
TOO_WEAK = 0.01
"""Share of images turned from correct to fooled below which an attack is too weak to matter."""

SENTENCES = (
    "On FGSM images alone the null class looks like a detector: {model} answers null to {null} of "
    "them at ε {eps} ({notebook_eps} in the notebook's units).",
    "At the same ε {attacker} fools {model} on {aer} of the images (AER).",
    "At ε {headline} the models with a null class have an AER of {aers} and a robust accuracy with "
    "rejection (RAR) of {rars}, on {num_union} images each.",
    "At ε {other_eps} {null_model} has {less_or_more} AER than {clean_model}, which has no null "
    "class: {null_aer} against {clean_aer}.{one_seed}",
    "The notebook concludes that attacks which are not detected are too weak to matter. For FGSM "
    "this {holds}: in the worst case, {worst_model} at ε {worst_eps}, FGSM turns {turned} of the "
    "images from correct to fooled (the line is drawn at {too_weak} %).",
    "{within} of {num} published rates are reproduced{better}{losses}, judged by the notebook's "
    "own loop over seeds.{recipe}",
)


def page(run: Run) -> Page:
    """The page of the study."""
    measures, counts = measures_of(run), undetected(run)
    return study_page(
        measures,
        "Does a null class recognise attacked images?",
        fill(SENTENCES, numbers(measures, counts)),
        [
            *section(
                "Measured and published",
                Text(
                    "The number in a model's name is its training ε in the notebook's units, “wd” "
                    "is weight decay 1e-4, and clean has no null class."
                ),
                Text(rule()),
                clean_table(measures),
                fgsm_table(measures, "null"),
                fgsm_table(measures, "null_loss"),
                notes_of(run),
            ),
            *section(
                "Two open questions",
                Text(
                    "The notebook leaves two questions open. How robust is the null class against "
                    "a null-aware attacker (AER and RAR)? Are the FGSM images that are not "
                    "detected too weak to matter, as it concludes (last table)?"
                )
                if measures.attacks()
                else None,
                white_box_table(measures, "aer"),
                white_box_table(measures, "rar"),
                undetected_table(measures, counts),
            ),
        ],
        figures=FIGURES,
        threat_model=_threat_model(measures),
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal."""
    measures = measures_of(run)
    return [published_table(measures), union_table(measures)]


def numbers(measures: Measures, counts: pd.DataFrame) -> dict[str, Any]:
    """Values of :data:`SENTENCES`; counts as of :func:`undetected`."""
    nulls = [model for model in measures.models if measures.has_null(model)]
    values: dict[str, Any] = {"attacker": measures.attacker(), "too_weak": percent(TOO_WEAK, 0)}
    found = compared(measures)
    within, num = reproduced(found, are_rates=True)
    near, judged = reproduced(found, are_rates=False)
    if num:
        is_quick = measures.run.info.preset == "quick"
        recipe = " The quick preset uses the fast recipe, the full preset the notebook's own."
        losses = f" and {near} of {judged} losses" if judged else ""
        values |= {"within": within, "num": num, "losses": losses, "recipe": recipe * is_quick}
        values["better"] = better_text(found)
    weakness = _weakness(counts[counts["model"].isin(nulls)])
    return values | _detection(measures, nulls) | _white_box(measures, nulls) | weakness


def _detection(measures: Measures, nulls: list[str]) -> dict[str, Any]:
    """The best null rate under FGSM at an ε of the white-box attack, and AER there."""
    pairs = [
        (null, budget)
        for eps in measures.budgets(FGSM)
        for budget in measures.union_budgets()
        if math.isclose(eps, budget, rel_tol=0.005)
        for null in measures.find_all(nulls, FGSM, "null", eps)
    ]
    if not pairs:
        return {}
    # among equal rates a published one
    best, eps = max(pairs, key=lambda p: (round(p[0].mean, 3), p[0].published is not None))
    aer = measures.find(best.model, UNION, "aer", eps)
    return {
        "model": best.model,
        "null": rate_text(best),
        "eps": eps_text(best.eps),
        "notebook_eps": eps_text(best.eps / PIXEL),
        "aer": aer and rate_text(aer),
    }


def _white_box(measures: Measures, nulls: list[str]) -> dict[str, Any]:
    """AER and RAR at the headline ε, and the largest difference that intervals confirm."""
    budgets = measures.union_budgets()
    if not budgets or not nulls:
        return {}
    eps = min(budgets, key=lambda budget: abs(budget - HEADLINE_EPS))
    values: dict[str, Any] = {"headline": eps_text(eps), "num_union": measures.num_images(UNION)}
    for metric in ("aer", "rar"):
        values[f"{metric}s"] = range_text(measures.find_all(nulls, UNION, metric, eps))
    others = [model for model in measures.models if model not in nulls]
    pairs = [
        (null, clean)
        for budget in budgets
        for clean in measures.find_all(others, UNION, "aer", budget)
        for null in measures.find_all(nulls, UNION, "aer", budget)
        if differ(null, clean)
    ]
    if pairs:
        null, clean = max(pairs, key=lambda pair: abs(pair[0].mean - pair[1].mean))
        caveat = " One seed does not show the variation between trainings."
        values |= {
            "other_eps": eps_text(null.eps),
            "null_model": null.model,
            "clean_model": clean.model,
            "less_or_more": "a lower" if null.mean < clean.mean else "a higher",
            "null_aer": rate_text(null),
            "clean_aer": rate_text(clean),
            "one_seed": caveat * (len(measures.seeds) == 1),
        }
    return values


def _weakness(counts: pd.DataFrame) -> dict[str, Any]:
    """The largest share of images that FGSM turns from correct to fooled."""
    if counts.empty:
        return {}
    shares = counts["num_turned"] / counts["num_images"]
    worst = counts.iloc[int(shares.to_numpy().argmax())]
    num_images = int(worst["num_images"])
    low, high = wilson(int(worst["num_turned"]), num_images)
    is_open = low < TOO_WEAK <= high
    interval = f"{percent(low)} – {percent(high)}"
    return {
        "holds": "is open" if is_open else "does not hold" if low >= TOO_WEAK else "holds",
        "worst_model": worst["model"],
        "worst_eps": eps_text(float(worst["eps_pixels"])),
        "turned": f"{percent(shares.max())} % ({interval}, n = {num_images:,})",
    }


def _threat_model(measures: Measures) -> list[str]:
    attack = measures.null_aware()
    null_aware = f"The {attack_name(attack)} is null-aware: {NULL_AWARE_TEXT} " if attack else ""
    return [
        "White-box: the attacker knows the model's weights, its null class and its training, and "
        "takes gradients through it. Each model is attacked itself, once per seed. Success is a "
        f"wrong class; null is a failure. {SCORED_TEXT}",
        "FGSM is the notebook's attack: one gradient-sign step on cross-entropy. It ignores null, "
        f"so many of its images are answered null. {null_aware}AER and RAR take the worst case per "
        "image over all attacks and the clean image. The notebook adds its ε to standardised "
        f"images: one of its units is {PIXEL:g} pixel units.",
    ]
