"""Histograms of the null score, one under the other: clean, attacked, inputs of no class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nullclass.report.blocks import Drawing
from nullclass.report.judged import can_refuse, only_trial
from nullclass.report.measures import Measures
from nullclass.report.populations import attacked_images, clean_images, inputs_of_no_class
from nullclass.report.style import WIDTH, sheet
from nullclass.results.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scores = npt.NDArray[np.float64]

FILE = "fig_null_scores"
NUM_BINS = 60
"""About so many."""
KEPT = (0.002, 0.998)
"""Quantiles of clean and attacked images that the axis reaches to; a few far out would hide the
rest."""
ROOM = 0.4
"""Room on both sides at most, in widths of that span, for inputs of no class."""
TOLD = 0.005
"""Share beyond the axis from which it is told."""


def null_scores(run: Run) -> Drawing | None:
    """A row a population, all on one axis of scores."""
    trial = only_trial(run)
    if trial is None:
        return None
    inside = [clean_images(trial), *attacked_images(trial)]
    shown = [of for of in (*inside, *inputs_of_no_class(trial)) if len(of.scores)]
    if not shown:
        return None
    has_null = can_refuse(trial.rows)
    everything = [of.scores for of in shown]
    edges = _edges(
        [of.scores for of in inside if len(of.scores)] or everything, everything, has_null
    )
    alt = f"histograms of the null score: {', '.join(p.name for p in shown)}"
    with sheet(FILE, alt, (WIDTH, 0.6 + 0.58 * len(shown))) as (figure, drawn):
        axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axis, population in zip(axes, shown, strict=True):
            num = len(population.scores)
            shares = np.histogram(population.scores.clip(edges[0], edges[-1]), edges)[0] / num
            axis.stairs(shares, edges, fill=True, color=population.colour)
            axis.set_ylim(0, max(shares.max() * 1.08, 1e-9))
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            title = f"{population.name} ({num:,})"
            axis.set_title(title, loc="left", fontsize=8, pad=2)
            if population not in inside:
                _tell_beyond(axis, population.scores, edges)
            if has_null:
                axis.axvline(0, color="#1D1F22", linewidth=1, linestyle=(0, (3, 2)))
        axes[-1].set_xlim(edges[0], edges[-1])
        axes[-1].set_xlabel("null score" + (" (right of the dashed line: null)" * has_null))
    meaning = (
        "the null logit (less the threshold, if there is one) minus the largest real logit"
        if has_null
        else "minus the logarithm of the largest softmax probability, as there is no null class"
    )
    return Drawing(
        "The null score",
        f"Null score: {meaning}. Share of images in equal bins, each row to its own height, "
        "behind its name the number of images. The axis is made for clean and attacked "
        "images; scores beyond it count in its outermost bins. "
        f"{Measures(run).seeds_text()}.",
        drawn,
        is_large=True,
    )


def _tell_beyond(axis: Axes, scores: Scores, edges: Scores) -> None:
    """Say beside the outermost bins how much of a row lies beyond them."""
    ends = (
        (scores < edges[0], 0.03, "left", "← {} beyond"),
        (scores > edges[-1], 0.97, "right", "{} beyond →"),
    )
    for is_beyond, place, side, told in ends:
        share = float(np.mean(is_beyond))
        if share >= TOLD:
            text = told.format(f"{100 * share:.3g}%")
            where = axis.transAxes
            axis.text(place, 0.6, text, ha=side, va="center", fontsize=7.5, transform=where)


def _edges(inside: list[Scores], all_scores: list[Scores], has_null: bool) -> Scores:
    """Edges of bins over nearly all scores inside, and some room for the others; 0 is one."""
    low, high = _span(inside)
    if has_null:
        low, high = min(low, 0.0), max(high, 0.0)
    room, (lowest, highest) = ROOM * (high - low), _span(all_scores)
    low, high = max(low - room, min(low, lowest)), min(high + room, max(high, highest))
    step = (high - low) / NUM_BINS or 1.0
    first = np.floor(low / step)
    return step * np.arange(first, max(np.ceil(high / step), first + 1) + 1)


def _span(scores: list[Scores]) -> tuple[float, float]:
    lows, highs = zip(*(np.quantile(of, KEPT) for of in scores), strict=True)
    return float(min(lows)), float(max(highs))
