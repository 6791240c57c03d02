"""ROC curves of the null score: attacked images and inputs of no class against clean images."""

from __future__ import annotations

from nullclass.metrics import scores
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.judged import only_trial
from nullclass.report.measures import Measures
from nullclass.report.populations import (
    Population,
    attacked_images,
    clean_images,
    inputs_of_no_class,
    score_of,
)
from nullclass.report.style import WIDTH, percent_axis, sheet
from nullclass.results.store import Run, Trial


def roc(run: Run) -> Drawing | None:
    """A panel for attacked images, one for inputs of no class; those there are."""
    trial = only_trial(run)
    if trial is None:
        return None
    clean = clean_images(trial)
    panels = [
        _panel(trial, name, heading, clean, positive)
        for name, heading, positive in (
            ("attacked", "Attacked images", attacked_images(trial)),
            ("ood", "Inputs of no class", inputs_of_no_class(trial)),
        )
        if positive and len(clean.scores)
    ]
    if not panels:
        return None
    return Drawing(
        "ROC of the null score",
        "For every threshold on the null score: the share of clean images it refuses, and the "
        f"share of the others. {len(clean.scores):,} clean images, {Measures(run).seeds_text()}. "
        "The legend gives the AUROC; the thin diagonal is chance, 50 %.",
        panels,
        is_large=True,
    )


def _panel(
    trial: Trial, name: str, heading: str, clean: Population, positive: list[Population]
) -> Panel:
    alt = f"ROC curves of the null score: {', '.join(p.name for p in positive)} against clean"
    with sheet(f"fig_roc_{name}", alt, (WIDTH, 3.1 + 0.17 * len(positive))) as (figure, drawn):
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color="#B9BDC3", linewidth=0.8)
        for population in positive:
            fpr, tpr, _ = scores.roc(population.scores, clean.scores)
            area = 100 * score_of(trial, population, "auroc")
            axis.plot(
                fpr,
                tpr,
                color=population.colour,
                label=f"{population.name}: {area:.1f} % ({len(population.scores):,})",
            )
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlabel("clean images refused")
        axis.set_ylabel("refused of the others")
        axis.grid()
        percent_axis(axis.xaxis)
        percent_axis(axis.yaxis)
        figure.legend(loc="outside lower center", ncols=1)
    (panel,) = drawn
    return Panel(panel.html, heading, panel.file, panel.svg, panel.png)
