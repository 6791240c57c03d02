"""Correct, fooled and null against eps: every model, and three of them beside the base model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nullclass.report.blocks import Drawing
from nullclass.report.measures import OUTCOMES, Measures, attack_name
from nullclass.report.style import (
    OUTCOME_LINES,
    WIDE,
    line_style,
    percent_axis,
    sheet,
)
from nullclass.results.store import Run
from nullclass.studies.null_samples.config import BASE, TRANSFER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "fig_scores_versus_epsilon"
COMPARED = ("m", "s", "sm")
"""Models the source sets beside the base model."""
NUM_COLUMNS = 2
DASHES = {"correct": "solid", "null": (0, (5, 1.5)), "fooled": (0, (1.5, 1))}
"""So that the lines are told apart without colour."""


def scores_versus_epsilon(run: Run) -> Drawing | None:
    """A panel a model: median over sets, band from the lower to the upper quartile."""
    measures = Measures(run)
    models = _with_curves(measures)
    if not models:
        return None
    num_rows = math.ceil(len(models) / NUM_COLUMNS)
    alt = f"shares of correct, null and fooled against eps for {', '.join(models)}"
    with sheet(FILE, alt, (WIDE, 0.6 + 1.75 * num_rows)) as (figure, drawn):
        grid = figure.subplots(num_rows, NUM_COLUMNS, sharex=True, sharey=True, squeeze=False)
        axes = list(grid.flat)
        for axis, model in zip(axes, models, strict=False):
            for outcome in OUTCOMES:
                _curve(
                    axis,
                    measures,
                    model,
                    outcome,
                    color=OUTCOME_LINES[outcome],
                    linestyle=DASHES[outcome],
                    label=outcome,
                )
            axis.set_title(model, loc="left")
            _dress(axis)
        for axis in axes[len(models) :]:
            axis.set_axis_off()
        _label_lowest(axes[: len(models)])
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return Drawing("Scores against ε", _caption(measures), drawn)


def model_comparison(run: Run) -> Drawing | None:
    """A panel an outcome, with a line for each of some models."""
    measures = Measures(run)
    models = [name for name in _with_curves(measures) if name in (BASE, *COMPARED)]
    if models in ([], [BASE]):
        return None
    alt = f"shares of correct, null and fooled against eps, {', '.join(models)} in one panel each"
    with sheet(f"{FILE}_model_compare", alt, (WIDE, 2.9)) as (figure, drawn):
        axes = list(figure.subplots(1, len(OUTCOMES), sharey=True))
        for axis, outcome in zip(axes, OUTCOMES, strict=True):
            for model in models:
                style = line_style(measures.models, model) | {"marker": ""}
                dashes = "dashed" if model == BASE else "solid"
                _curve(axis, measures, model, outcome, linestyle=dashes, label=model, **style)
            axis.set_title(outcome, loc="left")
            _dress(axis)
        _label_lowest(axes)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(models))
    return Drawing("Scores against ε, compared", _caption(measures), drawn)


def _with_curves(measures: Measures) -> list[str]:
    with_curves = {measure.model for measure in measures.all if measure.attack == TRANSFER}
    return [model for model in measures.models if model in with_curves]


def _curve(
    axis: Axes, measures: Measures, model: str, outcome: str, *, color: str, **style: object
) -> None:
    found = [measures.find(model, TRANSFER, outcome, eps) for eps in measures.budgets(TRANSFER)]
    shown = [measure for measure in found if measure is not None]
    eps = [measure.eps for measure in shown]
    if all(len(measure.values) > 1 for measure in shown):
        low, high = (
            [float(np.percentile(measure.values, part)) for measure in shown] for part in (25, 75)
        )
        axis.fill_between(eps, low, high, color=color, alpha=0.22, linewidth=0)
    medians = [float(np.median(measure.values)) for measure in shown]
    axis.plot(eps, medians, color=color, **style)  # type: ignore[arg-type]


def _dress(axis: Axes) -> None:
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axis.set_ylim(-0.02, 1.02)
    axis.set_yticks([0, 0.5, 1])
    axis.grid(axis="y")
    percent_axis(axis.yaxis)


def _label_lowest(axes: list[Axes]) -> None:
    for axis in axes[-NUM_COLUMNS:] if len(axes) != len(OUTCOMES) else axes:
        axis.set_xlabel("ε, pixel units")
        axis.tick_params(labelbottom=True)


def _caption(measures: Measures) -> str:
    spread = (
        "line: median over sets; band: lower to upper quartile of the sets"
        if len(measures.seeds) > 1
        else "one set, so no band"
    )
    return (
        f"{attack_name(TRANSFER)} made on {BASE} of the same set and transferred, the same ε (L∞, "
        f"pixel units) for every image: {measures.num_images(TRANSFER)} images a set that {BASE} "
        f"gets right when clean, {measures.seeds_text('set')}, models selected on "
        f"{measures.selection} images; {spread}."
    )
