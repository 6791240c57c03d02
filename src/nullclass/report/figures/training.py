"""Loss, null loss and training accuracy against epochs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.style import line_style, panel, percent_axis
from nullclass.results.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

SHOWN = {
    "loss": "Training loss",
    "null_loss": "Null loss",
    "train_accuracy": "Training accuracy",
}


def training(run: Run) -> Drawing | None:
    """Training curves, mean over seeds; a single epoch is a dot a model."""
    tables = [
        trial.history.assign(model=trial.model)
        for trial in run.trials
        if {"epoch", *SHOWN} <= set(trial.history)
    ]
    if not tables:
        return None
    history = pd.concat(tables)
    models = list(dict.fromkeys(trial.model for trial in run.trials))
    seeds = len({trial.seed for trial in run.trials})
    num_epochs = int(history["epoch"].max())
    panels = []
    for column, heading in SHOWN.items():
        told = history[["model", "epoch", column]].dropna()
        if told.empty:
            continue
        shown = [model for model in models if model in set(told["model"])]
        height = 0.7 + 0.36 * len(shown) if num_epochs == 1 else 3.2
        with panel(f"training-{column}", f"{heading} against epochs", height) as (axes, drawn):
            by = told.groupby(["model", "epoch"])[column].agg(["mean", "min", "max"])
            if num_epochs == 1:
                _dots(axes[0], by, shown, models, column)
            else:
                _lines(axes[0], by, shown, models, column)
        panels.append(Panel(drawn[0], heading))
    spread = "" if seeds == 1 else "; the spread is from the lowest to the highest seed"
    one = "One epoch, so one dot a model. " if num_epochs == 1 else ""
    return Drawing(
        "Training",
        f"{one}Means over the steps of an epoch, on the images being trained on (no attack but the "
        f"null source's own). {seeds} seed{'s' if seeds > 1 else ''}{spread}.",
        panels,
    )


def _lines(axis: Axes, by: pd.DataFrame, shown: list[str], models: list[str], column: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for model in shown:
        curve = by.loc[model]
        style = line_style(models, model)
        axis.fill_between(
            curve.index, curve["min"], curve["max"], color=style["color"], alpha=0.18, linewidth=0
        )
        axis.plot(curve.index, curve["mean"], label=model, **style)  # type: ignore[arg-type]
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch")
    axis.grid(axis="y")
    _scale(axis, axis.yaxis, "y", by, column)
    axis.figure.legend(loc="outside lower center", ncols=3)


def _dots(axis: Axes, by: pd.DataFrame, shown: list[str], models: list[str], column: str) -> None:
    for place, model in enumerate(shown):
        line = by.loc[model].iloc[0]
        style = line_style(models, model)
        axis.plot([line["min"], line["max"]], [place, place], color=style["color"], linewidth=1)
        axis.plot([line["mean"]], [place], linestyle="none", **style)  # type: ignore[arg-type]
        told = f"{100 * line['mean']:.2f}%" if column == "train_accuracy" else f"{line['mean']:.3g}"
        axis.annotate(
            told,
            (line["mean"], place),
            (0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
        )
    axis.set_yticks(range(len(shown)), shown)
    axis.set_ylim(len(shown) - 0.5, -0.8)
    axis.margins(x=0.16)
    axis.grid()
    _scale(axis, axis.xaxis, "x", by, column)


def _scale(axis: Axes, of: Axis, name: str, by: pd.DataFrame, column: str) -> None:
    """Percent for a rate; for losses a logarithm where they differ by more than tenfold."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if column == "train_accuracy":
        percent_axis(of)
        of.set_major_locator(MaxNLocator(4))
    elif by["min"].min() > 0 and by["max"].max() > 10 * by["min"].min():
        if name == "x":
            axis.set_xscale("log")
        else:
            axis.set_yscale("log")
        decades = math.log10(by["max"].max() / by["min"].min())
        of.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
        of.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        of.set_minor_formatter(NullFormatter())
    else:
        of.set_major_locator(MaxNLocator(5))
