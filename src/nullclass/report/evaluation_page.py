"""Page of one evaluated model: red flags and threat model first, then the results."""

from __future__ import annotations

from typing import Any

from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.report.blocks import Page, Section, Table, Text, section
from nullclass.report.evaluation_tables import (
    cost_table,
    ood_table,
    selective_table,
    separation_table,
    threat_model,
)
from nullclass.report.figures.confusion import MOST_CLASSES, confusion
from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.null_scores import null_scores, risk_coverage, roc
from nullclass.report.figures.outcomes import outcomes
from nullclass.report.figures.security_curves import security_curves
from nullclass.report.figures.smallest_eps import distribution_table, smallest_eps
from nullclass.report.formatting import eps_text, rate_text
from nullclass.report.measures import Measures
from nullclass.report.sections import (
    FLAGS_TITLE,
    closing_sections,
    fill,
    previews,
    subtitle,
    trial_flags,
)
from nullclass.report.tables import outcome_table, union_table
from nullclass.results.run import Run, Trial
from nullclass.results.schema import CLEAN, PROOF, UNION

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
NO_MATRIX = Text(
    f"No matrix is drawn for more than {MOST_CLASSES} classes, as it is not readable. "
    "trials/*/rows.parquet holds every answer."
)
NO_RISK = Text(
    "The best real class of every clean image is the true one, so there is no risk to draw against "
    "coverage."
)
SENTENCES = (
    "Clean images: {model} answers {correct} correctly, {null} null and {fooled} wrongly.",
    "At ε {eps} ({norm}, pixel units) it is fooled, when clean or by an attack, on {aer} of the "
    "images (AER); "
    "robust accuracy with rejection (RAR) is {rar}.",
    "On {null_dos} it is correct when clean and some attack makes it answer null (null-DoS).",
    "The proved lower bound of RAR at that ε, against every attack, is {rar_proved}.",
)


def page(run: Run) -> Page:
    """The page of an evaluation."""
    trial, measures = _only_trial(run), Measures(run)
    return Page(
        f"Evaluation of {trial.model}",
        subtitle(measures),
        [*findings(measures, trial.model), *previews(measures)],
        [*_sections(run, trial, measures), *closing_sections(run, TERMS)],
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal."""
    trial, measures = _only_trial(run), Measures(run)
    return [outcome_table(measures, trial.model), union_table(measures)]


def _only_trial(run: Run) -> Trial:
    if not run.trials:
        raise UserError(f"{run.folder} holds no finished evaluation: run it again")
    return run.trials[0]


def findings(measures: Measures, model: str) -> list[str]:
    """Clean outcomes, then the union at the largest ε."""
    measured = {outcome: measures.find(model, CLEAN, outcome) for outcome in OUTCOME_NAMES}
    values: dict[str, Any] = {"model": model, "norm": measures.norm(UNION)}
    for eps in measures.union_budgets()[-1:]:
        values["eps"] = eps_text(eps)
        measured |= {name: measures.find(model, UNION, name, eps) for name in ("aer", "rar")}
        measured["rar_proved"] = measures.find(model, PROOF, "rar_proved", eps)
        if measures.has_null(model):
            measured["null_dos"] = measures.find(model, UNION, "null_dos", eps)
    numbers = {name: measure and rate_text(measure) for name, measure in measured.items()}
    return fill(SENTENCES, values | numbers)


def _sections(run: Run, trial: Trial, measures: Measures) -> list[Section]:
    return [
        *section(FLAGS_TITLE, *trial_flags(trial)),
        *section("Threat model", *threat_model(trial, measures)),
        *section(
            "Results",
            union_table(measures),
            security_curves(trial, measures),
            outcome_table(measures, trial.model),
            outcomes(measures),
        ),
        *section("Attacks", cost_table(trial)),
        *section("Confusion matrices", confusion(trial, measures) or NO_MATRIX),
        *section(
            "Null score",
            null_scores(trial, measures),
            separation_table(trial),
            ood_table(trial),
            roc(trial, measures),
            selective_table(trial),
            risk_coverage(trial, measures) or NO_RISK,
        ),
        *section("Smallest ε", smallest_eps(trial, measures), distribution_table(trial, measures)),
        *section("Gallery", gallery(run)),
    ]
