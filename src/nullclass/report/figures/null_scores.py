"""The null score: histograms, ROC against clean images, and risk against coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nullclass.metrics import scores
from nullclass.report.blocks import Drawing
from nullclass.report.measures import Measures
from nullclass.report.style import FAINT, INK, WIDTH, percent_axis, sheet
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scores = npt.NDArray[np.float64]

NUM_BINS = 60
"""Approximately."""
KEPT = (0.002, 0.998)
"""Quantiles of clean and attacked images that the axis covers, so that outliers do not hide the
rest."""
ROOM = 0.4
"""Largest extension on both sides for inputs of no class, relative to that span."""
MIN_BEYOND = 0.005
"""Smallest share beyond the axis that is printed."""


def null_scores(run: Run) -> Drawing | None:
    """One row per population, all on one axis of scores."""
    trial = only_trial(run)
    if trial is None:
        return None
    inside = [p for p in (clean_images(trial), *attacked_images(trial)) if len(p.scores)]
    shown = [*inside, *(p for p in inputs_of_no_class(trial) if len(p.scores))]
    if not shown:
        return None
    has_null = can_refuse(trial.rows)
    every = [p.scores for p in shown]
    edges = _edges([p.scores for p in inside] or every, every, has_null)
    alt = f"histograms of the null score: {', '.join(p.name for p in shown)}"
    with sheet("fig_null_scores", alt, (WIDTH, 0.6 + 0.58 * len(shown))) as (figure, drawn):
        axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axis, population in zip(axes, shown, strict=True):
            num = len(population.scores)
            shares = np.histogram(population.scores.clip(edges[0], edges[-1]), edges)[0] / num
            axis.stairs(shares, edges, fill=True, color=population.colour)
            axis.set_ylim(0, max(shares.max() * 1.08, 1e-9))
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            axis.set_title(f"{population.name} ({num:,})", loc="left", fontsize=8, pad=2)
            if population not in inside:
                _print_beyond(axis, population.scores, edges)
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
        f"outermost bins. {Measures(run).seeds_text()}.",
        drawn,
        is_large=True,
    )


def _print_beyond(axis: Axes, values: Scores, edges: Scores) -> None:
    """Print beside the outermost bins the share of a row that is beyond them."""
    for is_beyond, x, side, text in (
        (values < edges[0], 0.03, "left", "← {} beyond"),
        (values > edges[-1], 0.97, "right", "{} beyond →"),
    ):
        share = float(np.mean(is_beyond))
        if share >= MIN_BEYOND:
            axis.text(
                x,
                0.6,
                text.format(f"{100 * share:.3g}%"),
                ha=side,
                va="center",
                fontsize=7.5,
                transform=axis.transAxes,
            )


def _edges(inside: list[Scores], every: list[Scores], has_null: bool) -> Scores:
    """Bin edges over nearly all scores inside, with some room for the others; 0 is an edge."""
    low, high = _span(inside)
    if has_null:
        low, high = min(low, 0.0), max(high, 0.0)
    room, (lowest, highest) = ROOM * (high - low), _span(every)
    low, high = max(low - room, min(low, lowest)), min(high + room, max(high, highest))
    step = (high - low) / NUM_BINS or 1.0
    first = np.floor(low / step)
    return step * np.arange(first, max(np.ceil(high / step), first + 1) + 1)


def _span(groups: list[Scores]) -> tuple[float, float]:
    lows, highs = zip(*(np.quantile(of, KEPT) for of in groups), strict=True)
    return float(min(lows)), float(max(highs))


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
                fpr, tpr = scores.roc(population.scores, clean.scores)
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
