"""Page of one evaluated model: red flags and threat model first, then the results."""

from __future__ import annotations

from typing import Any

from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import Page, Section, Table, Text, section
from nullclass.report.evaluation_tables import (
    cost_table,
    ood_table,
    selective_table,
    separation_table,
    threat_model,
)
from nullclass.report.figures import EVALUATION_FIGURES
from nullclass.report.figures.confusion import MOST_CLASSES, num_classes_of
from nullclass.report.formatting import attack_name, eps_text, rate_text
from nullclass.report.measures import OUTCOMES, Measures
from nullclass.report.sections import FLAGS_TITLE, closing_sections, fill, subtitle, trial_flags
from nullclass.report.tables import clean_outcomes_table, outcome_table, union_table
from nullclass.report.worst_case import only_trial
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run, Trial

TERMS = [
    (
        "null score",
        "A score that is larger for images the model is closer to answering null. It ranks images; "
        "the answer only sorts them into two groups.",
    ),
    (
        "ensemble",
        "A fixed sequence of attacks with one objective, each run on the images that are still "
        "active. An image counts as a success if one of its members succeeds.",
    ),
    (
        "inputs of no class",
        "Images that show none of the model's classes (out of distribution). Null is the only "
        "correct answer.",
    ),
]
SENTENCES = (
    "Clean images: {model} answers {correct} correctly, {null} null and {fooled} wrongly.",
    "At ε {eps} ({norm}, pixel units) at least one attack fools it on {aer} of the images (AER); "
    "robust accuracy with rejection (RAR) is {rar}.",
    "On {null_dos} it is correct when clean and some attack makes it answer null (null-DoS).",
    "The proved lower bound of RAR at that ε, against every attack, is {rar_proved}.",
)
ATTACK_SENTENCE = (
    "{attack} at ε {eps} (pixel units) fools it on {fooled} of the images; {null} become null."
)


def page(run: Run) -> Page:
    """The page of an evaluation."""
    measures, trial = Measures(run), only_trial(run)
    sections = _sections(run, trial, measures) if trial else []
    return Page(
        f"Evaluation of {', '.join(measures.models)}",
        subtitle(run, measures),
        [sentence for model in measures.models for sentence in findings(measures, model)],
        [*sections, *closing_sections(run, TERMS)],
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal."""
    measures = Measures(run)
    union = union_table(measures)
    outcomes = [outcome_table(measures, model) for model in measures.models]
    return [*outcomes, *([union] if union else [])]


def findings(measures: Measures, model: str) -> list[str]:
    """Clean outcomes, then the union at the largest ε; without a union, each attack."""
    clean = {outcome: measures.find(model, CLEAN, outcome) for outcome in OUTCOMES}
    values: dict[str, Any] = {"model": model}
    values |= {name: measure and rate_text(measure) for name, measure in clean.items()}
    budgets = measures.union_budgets()
    if budgets:
        values |= {"eps": eps_text(budgets[-1]), "norm": measures.norm(UNION)}
        for attack, metric in (
            (UNION, "aer"),
            (UNION, "rar"),
            (UNION, "null_dos"),
            (PROOF, "rar_proved"),
        ):
            measure = measures.find(model, attack, metric, budgets[-1])
            is_known = measure is not None and (metric != "null_dos" or measures.has_null(model))
            values[metric] = rate_text(measure) if measure and is_known else None
        return fill(SENTENCES, values)
    sentences = fill(SENTENCES, values)
    for attack in measures.attacks():
        eps = measures.budgets(attack)[-1]
        found = {name: measures.find(model, attack, name, eps) for name in ("fooled", "null")}
        numbers = {name: measure and rate_text(measure) for name, measure in found.items()}
        values = {"attack": attack_name(attack), "eps": eps_text(eps), **numbers}
        sentences += fill([ATTACK_SENTENCE], values)
    return sentences


def _sections(run: Run, trial: Trial, measures: Measures) -> list[Section]:
    figures = {name: draw(run) for name, draw in EVALUATION_FIGURES.items()}
    clean = f"{measures.num_images(CLEAN)} test images, not attacked."
    return [
        *section(FLAGS_TITLE, *trial_flags(trial)),
        *section("Threat model", *threat_model(trial)),
        *section(
            "Results",
            clean_outcomes_table(measures, "Clean images", clean),
            union_table(measures),
            figures["security-curves"],
            outcome_table(measures, trial.model),
            figures["outcomes"],
        ),
        *section("Attacks", figures["contribution"], cost_table(trial)),
        *section("Confusion matrices", figures["confusion"] or _no_matrix(num_classes_of(run))),
        *section(
            "Null score",
            figures["null-scores"],
            separation_table(trial),
            ood_table(trial),
            figures["roc"],
            selective_table(trial),
            figures["risk-coverage"]
            or Text(
                "The best real class of every clean image is the true one, so there is no risk to "
                "draw against coverage."
            ),
        ),
        *section("Smallest ε", figures["smallest-eps"], figures["smallest-eps-images"]),
        *section("Gallery", figures["gallery"]),
    ]


def _no_matrix(num_classes: int) -> Text | None:
    if num_classes <= MOST_CLASSES:
        return None
    return Text(
        f"No matrix is drawn for {num_classes:,} classes: with more than {MOST_CLASSES} it is not "
        "readable. trials/*/rows.parquet holds every answer."
    )
