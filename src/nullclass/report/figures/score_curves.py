"""Curves of the null score: ROC against clean images, and risk against coverage."""

from __future__ import annotations

from nullclass.metrics import scores
from nullclass.report.blocks import Drawing
from nullclass.report.measures import Measures
from nullclass.report.style import FAINT, WIDTH, percent_axis, sheet
from nullclass.report.worst_case import (
    attacked_images,
    can_refuse,
    clean_images,
    inputs_of_no_class,
    only_trial,
    score_of,
)
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run


def roc(run: Run) -> Drawing | None:
    """One panel for attacked images and one for inputs of no class."""
    trial = only_trial(run)
    if trial is None:
        return None
    clean = clean_images(trial)
    panels = []
    for name, heading, populations in (
        ("attacked", "Attacked images", attacked_images(trial)),
        ("ood", "Inputs of no class", inputs_of_no_class(trial)),
    ):
        if not populations or not len(clean.scores):
            continue
        alt = f"ROC of the null score: {', '.join(p.name for p in populations)} against clean"
        size = (WIDTH, 3.1 + 0.17 * len(populations))
        with sheet(f"fig_roc_{name}", alt, size, heading) as (figure, drawn):
            axis = figure.subplots()
            axis.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
            for population in populations:
                fpr, tpr, _ = scores.roc(population.scores, clean.scores)
                area = f"{100 * score_of(trial, population, 'auroc'):.1f} %"
                label = f"{population.name}: {area} ({len(population.scores):,})"
                axis.plot(fpr, tpr, color=population.colour, label=label)
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axis.set(xlabel="clean images answered null", ylabel="others answered null")
            axis.grid()
            percent_axis(axis.xaxis, axis.yaxis)
            figure.legend(loc="outside lower center", ncols=1)
        panels += drawn
    if not panels:
        return None
    return Drawing(
        "ROC of the null score",
        "Share of clean images and of the others whose null score is above a threshold, for every "
        f"threshold. {len(clean.scores):,} clean images, {Measures(run).seeds_text()}. Legend: "
        "AUROC and number of images; thin diagonal: chance, 50 %.",
        panels,
        is_large=True,
    )


def risk_coverage(run: Run) -> Drawing | None:
    """Error among accepted clean images against their share; ``None`` if none is wrong."""
    trial = only_trial(run)
    if trial is None:
        return None
    population = clean_images(trial)
    clean = trial.rows[trial.rows["attack"] == CLEAN]
    is_wrong = (clean["real_prediction"] != clean["label"]).to_numpy()
    if not is_wrong.any():
        return None
    coverage, risk = scores.risk_coverage(population.scores, is_wrong)
    aurc, augrc = (100 * score_of(trial, population, metric) for metric in ("aurc", "augrc"))
    label = f"clean: AURC {aurc:.3g} %, AUGRC {augrc:.3g} %"
    alt = "error among accepted clean images against coverage"
    with sheet("fig_risk_coverage", alt, (WIDTH, 3.2)) as (figure, drawn):
        axis = figure.subplots()
        axis.plot(coverage, risk, color=population.colour, drawstyle="steps-post", label=label)
        answered = clean[clean["outcome"] != "null"]
        if can_refuse(trial.rows) and len(answered):
            axis.plot(
                len(answered) / len(clean),
                (answered["outcome"] == "fooled").mean(),
                marker="o",
                linestyle="none",
                color="#D55E00",
                label="the model's own decision",
                clip_on=False,
                zorder=3,
            )
        axis.set(xlim=(0, 1), ylim=(0, max(1.1 * float(risk.max()), 0.01)))
        axis.set(xlabel="coverage: clean images accepted", ylabel="risk: wrong among them")
        axis.grid()
        percent_axis(axis.xaxis, axis.yaxis)
        figure.legend(loc="outside lower center", ncols=1)
    return Drawing(
        "Risk against coverage",
        f"{len(clean):,} clean images, accepted in order of ascending null score. Risk: share of "
        f"accepted images whose best real class is wrong ({int(is_wrong.sum()):,} in total). Lower "
        "is better: a good score accepts the wrong images last. "
        f"{Measures(run).seeds_text()}.",
        drawn,
        is_large=True,
    )
