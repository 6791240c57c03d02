"""Training curves: losses and accuracy against epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from nullclass.report.blocks import Drawing
from nullclass.report.style import WIDTH, line_style, percent_axis, sheet
from nullclass.results.store import Run, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

ACCURACY = "train_accuracy"
COLUMNS = {
    "loss": "Training loss",
    "null_loss": "Null loss",
    ACCURACY: "Training accuracy",
}


def training(run: Run, columns: Mapping[str, str] = COLUMNS, file: str = "") -> Drawing | None:
    """One panel per quantity: mean over seeds; with a single epoch, one dot per model.

    Args:
        run: The run.
        columns: Columns of the histories and their headings.
        file: Beginning of the names of files, if the panels are also written to files.
    """
    history = histories(run, columns)
    if history.empty:
        return None
    num_epochs = int(history["epoch"].max())
    models = [*dict.fromkeys(trial.model for trial in run.trials)]
    panels = []
    for column, heading in columns.items():
        known = history[["model", "epoch", column]].dropna()
        if known.empty:
            continue
        shown = [model for model in models if model in set(known["model"])]
        height = 0.7 + 0.36 * len(shown) if num_epochs == 1 else 3.2
        size = (WIDTH, height)
        with sheet(
            f"{file or 'training'}-{column}",
            f"{heading} against epochs",
            size,
            heading,
            is_file=bool(file),
        ) as (
            figure,
            drawn,
        ):
            axis = figure.subplots()
            by = known.groupby(["model", "epoch"])[column].agg(["mean", "min", "max"])
            if num_epochs == 1:
                _dots(axis, by, shown, models, column)
            else:
                for model in shown:
                    of, style = known[known["model"] == model], line_style(models, model)
                    epoch_curve(axis, of, column, label=model, **style)
                axis.set_xlabel("epoch")
                axis.grid(axis="y")
                _scale(axis, axis.yaxis, "y", by, column)
                figure.legend(loc="outside lower center", ncols=3)
        panels += drawn
    one = "One epoch, so one dot per model. " if num_epochs == 1 else ""
    return Drawing(
        "Training",
        f"{one}Means over the steps of an epoch on the training images, with the null source's "
        f"images. {seeds_note(run)}",
        panels,
    )


def histories(
    run: Run, columns: Mapping[str, str], offset: Callable[[Trial], int] = lambda _: 0
) -> pd.DataFrame:
    """Training histories with a column ``model``; empty without any.

    Args:
        run: The run.
        columns: Required columns.
        offset: Number of epochs before the first one of a trial.
    """
    tables = [
        trial.history.assign(model=trial.model, epoch=trial.history["epoch"] + offset(trial))
        for trial in run.trials
        if {"epoch", *columns} <= set(trial.history)
    ]
    return pd.concat(tables) if tables else pd.DataFrame()


def seeds_note(run: Run) -> str:
    """Number of seeds and the meaning of the band."""
    seeds = len({trial.seed for trial in run.trials})
    return "1 seed." if seeds == 1 else f"{seeds} seeds; bands: lowest to highest seed."


def epoch_curve(
    axis: Axes, history: pd.DataFrame, column: str, by: str = "epoch", **style: Any
) -> None:
    """Draw the mean over seeds of one model's column against epochs, with its range."""
    from matplotlib.ticker import MaxNLocator

    by_epoch = history.groupby(by)[column].agg(["mean", "min", "max"])
    axis.fill_between(
        by_epoch.index,
        by_epoch["min"],
        by_epoch["max"],
        color=style["color"],
        alpha=0.18,
        linewidth=0,
    )
    axis.plot(by_epoch.index, by_epoch["mean"], **style)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _dots(axis: Axes, by: pd.DataFrame, shown: list[str], models: list[str], column: str) -> None:
    for index, model in enumerate(shown):
        line, style = by.xs(model).iloc[0], line_style(models, model)
        axis.plot([line["min"], line["max"]], [index, index], color=style["color"], linewidth=1)
        axis.plot([line["mean"]], [index], linestyle="none", **style)
        mean = line["mean"]
        text = f"{100 * mean:.2f}%" if column == ACCURACY else f"{mean:.3g}"
        axis.annotate(
            text, (mean, index), (0, 5), textcoords="offset points", ha="center", fontsize=7.5
        )
    axis.set_yticks(range(len(shown)), shown)
    axis.set_ylim(len(shown) - 0.5, -0.8)
    axis.margins(x=0.16)
    axis.grid()
    _scale(axis, axis.xaxis, "x", by, column)


def _scale(axis: Axes, of: Axis, name: str, by: pd.DataFrame, column: str) -> None:
    """Percent for a rate; a logarithmic scale for losses that differ by more than tenfold."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = by["min"].min(), by["max"].max()
    of.set_major_locator(MaxNLocator(5 - (column == ACCURACY)))
    if column == ACCURACY:
        percent_axis(of)
    elif low > 0 and high > 10 * low:
        axis.set(**{f"{name}scale": "log"})
        of.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        of.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        of.set_minor_formatter(NullFormatter())
