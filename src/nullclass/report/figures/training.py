"""Training curves: losses and accuracy against epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.style import line_style, panel, percent_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACCURACY = "train_accuracy"
COLUMNS = {
    "loss": "Training loss",
    "null_loss": "Null loss",
    ACCURACY: "Training accuracy",
}


def training(
    histories: pd.DataFrame,
    models: Sequence[str],
    columns: Mapping[str, str] = COLUMNS,
    file: str = "",
) -> Drawing | None:
    """One panel per quantity: mean over seeds; with a single epoch, one dot per model.

    Args:
        histories: :attr:`nullclass.results.run.Run.histories`, of one selection.
        models: The models of the report in their order, which gives each its colour.
        columns: Columns of the histories and their headings.
        file: Beginning of the names of files, if the panels are also written to files.
    """
    if not {"epoch", *columns} <= set(histories):
        return None
    is_one = int(histories["epoch"].max()) == 1
    panels: list[Panel] = []
    for column, heading in columns.items():
        known = histories[["model", "epoch", column]].dropna()
        if known.empty:
            continue
        shown = [model for model in models if model in set(known["model"])]
        by = known.groupby(["model", "epoch"])[column].agg(["mean", "min", "max"])
        with panel(
            panels,
            f"{file or 'training'}-{column}",
            f"{heading} against epochs",
            0.7 + 0.36 * len(shown) if is_one else 3.2,
            heading,
            legend=0 if is_one else 3,
            is_file=bool(file),
        ) as axis:
            if is_one:
                _dots(axis, by, shown, models, column)
            else:
                _curves(axis, by, shown, models)
            _scale(axis, "x" if is_one else "y", by, column)
    seeds = histories["seed"].nunique()
    return Drawing(
        "Training",
        f"{'One epoch, so one dot per model. ' * is_one}Means over the steps of an epoch on the "
        "training images, with the null source's images. "
        f"{'1 seed.' if seeds == 1 else f'{seeds} seeds; bands: lowest to highest seed.'}",
        panels,
    )


def _curves(axis: Axes, by: pd.DataFrame, shown: list[str], models: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for model in shown:
        of, style = by.xs(model), line_style(models, model)
        axis.fill_between(of.index, of["min"], of["max"], color=style["color"], alpha=0.18, lw=0)
        markers = 1 + len(of) // 10
        axis.plot(of.index, of["mean"], label=model, markevery=markers, **style)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch")
    axis.grid(axis="y")


def _dots(
    axis: Axes, by: pd.DataFrame, shown: list[str], models: Sequence[str], column: str
) -> None:
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


def _scale(axis: Axes, name: str, by: pd.DataFrame, column: str) -> None:
    """Percent for a rate; a logarithmic scale for losses that differ by more than tenfold."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    of = axis.xaxis if name == "x" else axis.yaxis
    low, high = by["min"].min(), by["max"].max()
    of.set_major_locator(MaxNLocator(5 - (column == ACCURACY)))
    if column == ACCURACY:
        percent_axis(of)
    elif low > 0 and high > 10 * low:
        axis.set(**{f"{name}scale": "log"})
        of.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        of.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        of.set_minor_formatter(NullFormatter())
