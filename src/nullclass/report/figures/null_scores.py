"""The null score: histograms, ROC against clean images, and risk against coverage."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nullclass.metrics import scores
from nullclass.metrics.rates import with_given_eps
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.formatting import attack_name, eps_text
from nullclass.report.measures import Measures
from nullclass.report.style import FAINT, INK, WIDTH, panel, percent_axis, sheet
from nullclass.report.worst_case import strongest, subsample
from nullclass.results.run import Trial
from nullclass.results.schema import CLEAN, LEFT_OUT

Scores = npt.NDArray[np.float64]

NUM_BINS = 60
"""Approximately."""
KEPT = (0.002, 0.998)
"""Quantiles of clean and attacked images that the axis covers."""
CLEAN_COLOUR = "#0072B2"
ATTACK_COLOURS = ("#F2B680", "#E08A45", "#D55E00", "#8A3C00")
"""From the smallest ε to the largest; the number of budgets shown at most."""
OOD_COLOURS = ("#009E73", "#CC79A7", "#6A3D9A", "#56B4E9", "#7C828A")


class Population(NamedTuple):
    """Null scores of one kind of images."""

    name: str
    colour: str
    scores: Scores


def clean_images(trial: Trial) -> Population:
    """All clean test images."""
    rows = trial.rows[trial.rows["attack"] == CLEAN]
    return Population("clean", CLEAN_COLOUR, rows["null_score"].to_numpy())


def attacked_images(trial: Trial) -> list[Population]:
    """Images of the strongest attack, one population per ε; proved ones are not attacked."""
    attack, rows = strongest(trial.rows), with_given_eps(trial.rows)
    rows = rows[(rows["attack"] == attack) & (rows["member"] != LEFT_OUT)]
    groups = [*rows.groupby("eps_pixels")["null_score"]]
    shown = subsample(groups, len(ATTACK_COLOURS))
    return [
        Population(f"{attack_name(str(attack))}, ε {eps_text(eps)}", colour, of.to_numpy())
        for (eps, of), colour in zip(shown, ATTACK_COLOURS[-len(shown) :], strict=False)
    ]


def inputs_of_no_class(trial: Trial) -> list[Population]:
    """Inputs of no class, one population per source."""
    sources = trial.ood.groupby("source", sort=False)["null_score"]
    return [
        Population(str(source), OOD_COLOURS[index % len(OOD_COLOURS)], of.to_numpy())
        for index, (source, of) in enumerate(sources)
    ]


def null_scores(trial: Trial, measures: Measures) -> Drawing | None:
    """One row per population, all on one axis of scores."""
    inside = [clean_images(trial), *attacked_images(trial)]
    shown = [*inside, *inputs_of_no_class(trial)]
    has_null = measures.has_null(trial.model)
    edges = _edges(inside, has_null)
    alt = f"histograms of the null score: {', '.join(p.name for p in shown)}"
    with sheet("fig_null_scores", alt, (WIDTH, 0.6 + 0.58 * len(shown))) as (figure, drawn):
        axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axis, population in zip(axes, shown, strict=True):
            num = len(population.scores)
            shares = np.histogram(population.scores.clip(edges[0], edges[-1]), edges)[0] / num
            axis.stairs(shares, edges, fill=True, color=population.colour)
            axis.set_ylim(0, shares.max() * 1.08)
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            axis.set_title(f"{population.name} ({num:,})", loc="left", fontsize=8, pad=2)
            if has_null:
                axis.axvline(0, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        axes[-1].set_xlim(edges[0], edges[-1])
        axes[-1].set_xlabel("null score" + " (right of the dashed line: null)" * has_null)
    meaning = (
        "the null logit (less the threshold, if there is one) minus the largest real logit"
        if has_null
        else "minus the logarithm of the largest softmax probability, as there is no null class"
    )
    return Drawing(
        "The null score",
        f"Null score: {meaning}. Share of images per bin, scaled per row; number of images in "
        "parentheses. The axis covers clean and attacked images; scores beyond it count in the "
        f"outermost bins. {measures.seeds_text()}.",
        drawn,
        is_large=True,
    )


def _edges(shown: list[Population], has_null: bool) -> Scores:
    """Bin edges over nearly all scores; 0 is an edge."""
    ends = np.array([np.quantile(of.scores, KEPT) for of in shown])
    low, high = ends.min(), ends.max()
    if has_null:
        low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / NUM_BINS or 1.0
    first = np.floor(low / step)
    return np.asarray(step * np.arange(first, max(np.ceil(high / step), first + 1) + 1))


def roc(trial: Trial, measures: Measures) -> Drawing | None:
    """One panel for attacked images and one for inputs of no class."""
    from sklearn.metrics import auc

    clean = clean_images(trial).scores
    panels: list[Panel] = []
    for name, heading, populations in (
        ("attacked", "Attacked images", attacked_images(trial)),
        ("ood", "Inputs of no class", inputs_of_no_class(trial)),
    ):
        if not populations:
            continue
        alt = f"ROC of the null score: {', '.join(p.name for p in populations)} against clean"
        height = 3.1 + 0.17 * len(populations)
        with panel(panels, f"fig_roc_{name}", alt, height, heading, legend=1) as axis:
            axis.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
            for of in populations:
                fpr, tpr = scores.roc(of.scores, clean)
                label = f"{of.name}: {100 * auc(fpr, tpr):.1f} % ({len(of.scores):,})"
                axis.plot(fpr, tpr, color=of.colour, label=label)
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axis.set(xlabel="clean images answered null", ylabel="others answered null")
            axis.grid()
            percent_axis(axis.xaxis, axis.yaxis)
    if not panels:
        return None
    return Drawing(
        "ROC of the null score",
        "Share of clean images and of the others whose null score is above a threshold, for every "
        f"threshold. {len(clean):,} clean images, {measures.seeds_text()}. Legend: AUROC and "
        "number of images; thin diagonal: chance, 50 %.",
        panels,
        is_large=True,
    )


def risk_coverage(trial: Trial, measures: Measures) -> Drawing | None:
    """Error among accepted clean images against their share; ``None`` if none is wrong."""
    clean = trial.rows[trial.rows["attack"] == CLEAN]
    is_wrong = (clean["real_prediction"] != clean["label"]).to_numpy()
    if not is_wrong.any():
        return None
    coverage, risk = scores.risk_coverage(clean["null_score"].to_numpy(), is_wrong)
    panels: list[Panel] = []
    alt = "error among accepted clean images against coverage"
    with panel(panels, "fig_risk_coverage", alt, 3.2, legend=2) as axis:
        label = "by the null score"
        axis.plot(coverage, risk, color=CLEAN_COLOUR, drawstyle="steps-post", label=label)
        answered = clean[clean["outcome"] != "null"]
        if measures.has_null(trial.model) and len(answered):
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
    return Drawing(
        "Risk against coverage",
        f"{len(clean):,} clean images, accepted in order of ascending null score. Risk: share of "
        f"accepted images whose best real class is wrong ({int(is_wrong.sum()):,} in total). Lower "
        f"is better: a good score accepts the wrong images last. {measures.seeds_text()}.",
        panels,
        is_large=True,
    )
