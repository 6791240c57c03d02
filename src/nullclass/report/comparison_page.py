"""Page of several evaluations side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from msgspec import structs

from nullclass.core.errors import UserError
from nullclass.metrics.comparable import Subject
from nullclass.report.blocks import Drawing, Page, Panel, Table, Terms, section
from nullclass.report.formatting import eps_text, rate_text
from nullclass.report.measures import Measures, differ
from nullclass.report.sections import (
    DEFINITIONS,
    attack_terms,
    flags_section,
    previews,
)
from nullclass.report.style import curve, line_style, panel, rate_axes
from nullclass.report.tables import (
    MEANINGS,
    UNION_RATES,
    clean_outcomes_table,
    make_table,
    prediction_costs,
    union_table,
)
from nullclass.results.run import Run, Trial
from nullclass.results.schema import CLEAN, LAST, PROOF, UNION

PROVED = "rar_proved"
CURVES = {metric: (UNION, MEANINGS[metric]) for metric in UNION_RATES} | {
    PROVED: (PROOF, "RAR, proved: a lower bound that holds against every attack")
}
"""Metric to attack and heading of its panel."""


def join_runs(runs: Sequence[Run]) -> Run:
    """Return the evaluations of several runs as one run.

    Of a training with several selections, the first counts. A model that several runs have is
    called by its run folder, too.

    Raises:
        UserError: If a run has no finished evaluation, there are fewer than two, or two have the
            same name and seed.
    """
    owners: dict[str, set[str]] = {}
    for run in runs:
        if not run.trials:
            raise UserError(f"{run.folder} holds no finished evaluation: run it again")
        for trial in run.trials:
            owners.setdefault(trial.model, set()).add(str(run.folder))
    trials: dict[tuple[str, int], Trial] = {}
    for run in runs:
        for trial in run.trials:
            if trial.selection != run.info.selections[0]:
                continue
            is_shared = len(owners[trial.model]) > 1
            name = f"{run.folder.name}/{trial.model}" if is_shared else trial.model
            if (name, trial.seed) in trials:
                raise UserError(f"there are two evaluations of {name}: give each run folder once")
            result = structs.replace(trial.result, model=name, selection=LAST)
            trials[name, trial.seed] = replace(trial, result=result)
    if len(trials) < 2:
        raise UserError("a comparison needs at least two evaluations")
    info = structs.replace(
        runs[0].info,
        models=list(dict.fromkeys(name for name, _ in trials)),
        seeds=sorted({seed for _, seed in trials}),
        selections=[LAST],
    )
    return Run(runs[0].folder, info, list(trials.values()), lambda *_: None)


def subjects_of(run: Run) -> dict[str, Subject]:
    """Return what the rates of each evaluation depend on besides its model."""
    several = len(run.info.seeds) > 1
    return {
        f"{trial.model}, seed {trial.seed}" if several else trial.model: Subject.of(
            trial.rows, trial.result.threat, trial.result.data_checksum
        )
        for trial in run.trials
    }


def page(run: Run, differences: Sequence[str]) -> Page:
    """The page of a comparison.

    Args:
        run: The evaluations (:func:`join_runs`).
        differences: Why the rates are not comparable, in sentences; empty if they are.
    """
    measures = Measures(run)
    warning = [f"These rates are not comparable: {'; '.join(differences)}."] if differences else []
    return Page(
        f"Comparison of {len(measures.models)} models",
        " · ".join(
            filter(None, [run.info.data.name, measures.norm(UNION), *_num_images(measures)])
        ),
        [*warning, *findings(measures), *previews(measures)],
        [
            *section("Results", *summary_tables(run), security_curves(measures)),
            *section("Cost of a prediction", cost_table(run)),
            *flags_section(run),
            *section("Attacks", Terms(attack_terms(measures))),
            *section("Evaluations", evaluations_table(run)),
            *section("Definitions", Terms(DEFINITIONS)),
        ],
    )


def _num_images(measures: Measures) -> list[str]:
    return [f"{measures.num_images(UNION)} attacked images"] if measures.budgets(UNION) else []


def summary_tables(run: Run) -> list[Table]:
    """Clean outcomes, then the worst case per model and ε."""
    measures = Measures(run)
    caption = f"{measures.num_images(CLEAN)} clean images."
    return [clean_outcomes_table(measures, "Clean images", caption), union_table(measures)]


def findings(measures: Measures) -> list[str]:
    """The models by RAR at the largest ε that all have, and which are not distinguishable."""
    for eps in reversed(measures.union_budgets("rar")):
        found = measures.find_all(measures.models, UNION, "rar", eps)
        if len(found) == len(measures.models):
            break
    else:
        return ["There is no ε at which all models were attacked to fool."]
    ranked = sorted(found, key=lambda measure: -measure.mean)
    listed = ", ".join(f"{measure.model} {rate_text(measure, has_n=False)}" for measure in ranked)
    budget = f"ε {eps_text(eps)} ({measures.norm(UNION)}, pixel units)"
    sentences = [f"Robust accuracy with rejection (RAR) at {budget} is at most: {listed}."]
    alike = [(one, other) for one, other in pairwise(ranked) if not differ(one, other)]
    if alike:
        pairs = "; ".join(f"{one.model} and {other.model}" for one, other in alike)
        sentences.append(f"The intervals overlap, so that the order is not shown, of {pairs}.")
    return sentences


def security_curves(measures: Measures) -> Drawing | None:
    """One panel per rate, one line per model."""
    panels: list[Panel] = []
    for metric, (attack, meaning) in CURVES.items():
        lines = {model: measures.curve(model, attack, metric) for model in measures.models}
        if not any(lines.values()):
            continue
        alt = f"{metric} of {', '.join(measures.models)} against ε"
        with panel(panels, f"fig_{metric}", alt, 3.6, meaning, legend=2) as axis:
            for model, points in lines.items():
                if points:
                    curve(axis, points, label=model, **line_style(measures.models, model))
            rate_axes(axis)
    if not panels:
        return None
    return Drawing(
        "Security curves",
        f"Worst case per image over all attacks at that ε or below, {measures.norm(UNION)}, "
        f"{measures.num_images(UNION)} images; {measures.interval_note()}.",
        panels,
        is_large=True,
    )


def cost_table(run: Run) -> Table | None:
    """Passes and time of a prediction; ``None`` if no evaluation measured it."""
    rows = [
        [
            model,
            f"{cost.num_forwards:g}" if cost.num_forwards else "bounds",
            f"{cost.num_backwards:g}",
            f"{cost.cpu_ms:.3g}",
        ]
        for model, cost in prediction_costs(run).items()
    ]
    if not rows:
        return None
    columns = ["model", ("forward", "passes"), ("backward", "passes"), ("CPU", "ms")]
    caption = "Per image, in batches. Times are of the machine of each evaluation."
    return make_table("Cost of a prediction", columns, rows, caption)


def evaluations_table(run: Run) -> Table:
    """Where the evaluations come from."""
    rows = [
        [
            trial.model,
            str(trial.seed),
            str(trial.folder.parent.parent),
            trial.result.provenance.versions.get("nullclass", ""),
            trial.result.device,
        ]
        for trial in run.trials
    ]
    columns = ["model", "seed", "run folder", "nullclass", "device"]
    return make_table("Evaluations compared", columns, rows, holds_words=True)
