"""Loss and accuracy of the ramp models while they train, the null models going on from base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from nullclass.report.blocks import Drawing
from nullclass.report.style import WIDTH, line_style, percent_axis, sheet
from nullclass.results.store import Run, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = {"loss": "Training loss", "train_accuracy": "Training accuracy"}

PUBLISHED = {
    ("base", "train_accuracy"): 1.0,
    ("uniform", "loss"): 0.168,
    ("uniform", "train_accuracy"): 0.943,
}
"""Where the source's models end, to the digits it gives (study-facts section 2): "near" these."""

STAR = "published"


def start_epochs(trial: Trial) -> int:
    """Epochs of the trainings that a model goes on from, as its settings say."""
    epochs = 0
    training: Any = trial.result.get("config", {}).get("training", {})
    while training.get("start"):
        training = training["start"]
        epochs += int(training["recipe"]["epochs"])
    return epochs


def ramp_training(run: Run) -> Drawing | None:
    """Training curves over epochs counted from base's first, mean over seeds."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    tables = [
        trial.history.assign(model=trial.model, at=trial.history["epoch"] + start_epochs(trial))
        for trial in run.trials
        if {"epoch", *SHOWN} <= set(trial.history)
    ]
    if not tables:
        return None
    history = pd.concat(tables)
    models = list(dict.fromkeys(trial.model for trial in run.trials))
    shown = [model for model in models if model in set(history["model"])]
    starts = {trial.model: start_epochs(trial) for trial in run.trials}
    alt = f"Training loss and accuracy against epochs of {', '.join(shown)}"
    with sheet("fig_ramp_training_histories", alt, (WIDTH, 4.0)) as (figure, drawn):
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, column in zip((upper, lower), SHOWN, strict=True):
            _curves(axes, history, shown, models, column)
            for start in {*starts.values()} - {0}:
                axes.axvline(start + 0.5, color="#999999", linewidth=0.8, linestyle="--")
        upper.set_yscale("log")
        upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        upper.yaxis.set_minor_formatter(NullFormatter())
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        lower.set_ylim(top=1.02)
        percent_axis(lower.yaxis)
        lower.set_xlabel("epoch")
        figure.legend(*_legend(upper, lower), loc="outside lower center", ncols=4)
    seeds = len({trial.seed for trial in run.trials})
    spread = "" if seeds == 1 else "; the spread is from the lowest to the highest seed"
    goes_on = (
        " Where a null model goes on from base (dashed line), its epochs follow base's."
        if any(starts.values())
        else ""
    )
    return Drawing(
        "Training",
        "Means over the steps of an epoch, on ramps and null images as they came, with dropout. "
        f"{seeds} seed{'s' if seeds > 1 else ''}{spread}.{goes_on} Stars: near there the source's "
        "models end, drawn at the end of ours.",
        drawn,
        is_large=True,
    )


def _curves(
    axes: Axes, history: pd.DataFrame, shown: list[str], models: list[str], column: str
) -> None:
    for model in shown:
        of = history[history["model"] == model].groupby("at")[column]
        curve = of.agg(["mean", "min", "max"])
        style: Any = line_style(models, model)
        axes.fill_between(
            curve.index, curve["min"], curve["max"], color=style["color"], alpha=0.18, linewidth=0
        )
        axes.plot(
            curve.index, curve["mean"], label=model, markevery=max(1, len(curve) // 10), **style
        )
        published = PUBLISHED.get((model, column))
        if published is not None:
            axes.plot(
                [curve.index[-1]],
                [published],
                "*",
                label=STAR,
                color="#CC79A7",
                markersize=11,
                markeredgecolor="#222222",
                markeredgewidth=0.7,
                zorder=3,
            )
    axes.set_title(SHOWN[column], loc="left", fontsize=9)
    axes.grid(axis="y")


def _legend(*axes: Axes) -> tuple[list[Any], list[str]]:
    """Each label once."""
    named: dict[str, Any] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    named = dict(sorted(named.items(), key=lambda pair: pair[0] == STAR))  # models first
    return list(named.values()), list(named)
