"""Trainings on a robust loss: the loss, the share that stands at the step's eps, and that eps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nullclass.report.blocks import Drawing
from nullclass.report.style import WIDTH, line_style, percent_axis, sheet
from nullclass.results.store import Run, Trial
from nullclass.training.eps_schedule import RAMPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = {
    "loss": "Training loss",
    "train_accuracy": "Share that stands at the step's ε",
    "eps": "ε of the step",
}
SAMPLES = 200
"""Steps that an epoch's mean ε is taken over."""


def certified_training(run: Run) -> Drawing | None:
    """Three panels against the share of the training: models differ in their numbers of epochs."""
    tables = [_told(trial) for trial in run.trials if {"epoch", "loss"} <= set(trial.history)]
    if not tables:
        return None
    history = pd.concat(tables, ignore_index=True)
    models = list(dict.fromkeys(trial.model for trial in run.trials))
    seeds = sorted({trial.seed for trial in run.trials})
    panels = []
    for column, heading in SHOWN.items():
        known = history[history[column].notna()]
        with sheet(
            f"certified-{column}", f"{heading} by epoch", (WIDTH, 3.3), heading, is_file=False
        ) as (figure, drawn):
            axis = figure.subplots()
            for model in models:
                of = known[known["model"] == model]
                by = of.groupby("progress")[column].agg(["mean", "min", "max"])
                if by.empty:
                    continue
                colour = line_style(models, model)["color"]
                ends = by["min"], by["max"]
                axis.fill_between(by.index, *ends, color=colour, alpha=0.18, linewidth=0)
                is_short = len(by) < 15
                marker = line_style(models, model)["marker"] if is_short else None
                axis.plot(by.index, by["mean"], color=colour, marker=marker, label=model)
            if column == "train_accuracy":
                percent_axis(axis.yaxis)
            elif column == "loss" and not known.empty and known["loss"].min() > 0:
                _logarithmic(axis)
            axis.set_xlim(0, 1)
            percent_axis(axis.xaxis)
            axis.set_xlabel("share of the training done")
            axis.grid(axis="y")
            figure.legend(loc="outside lower center", ncols=3)
        panels += drawn
    epochs = "; ".join(
        f"{model} {int(of['epoch'].max())}" for model, of in history.groupby("model", sort=False)
    )
    spread = "" if len(seeds) == 1 else "; the spread is from the lowest to the highest seed"
    return Drawing(
        "Training",
        "Means over the steps of an epoch, on the images being trained on. Losses differ in kind: "
        "worst logits by bounds (provable models and the abstain class), attacked images "
        "(adversarial), clean images (clean). What stands is proved, or, with a loss on attacked "
        "images, not fooled, at the ε of that step, in pixel units; so the share falls while ε "
        f"rises. Epochs: {epochs}. {len(seeds)} seed{'s' if len(seeds) > 1 else ''} "
        f"({', '.join(map(str, seeds))}){spread}.",
        panels,
    )


def _logarithmic(axis: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _told(trial: Trial) -> pd.DataFrame:
    """The history with the share of the training done at each epoch's end, and its mean ε."""
    history = trial.history
    num = len(history)
    ends = np.arange(1, num + 1) / num
    return history[["epoch", "loss", "train_accuracy"]].assign(
        model=trial.model,
        progress=ends,
        eps=[mean_eps(trial, n / num, (n + 1) / num) for n in range(num)],
    )


def mean_eps(trial: Trial, begin: float, end: float) -> float:
    """The mean ε of the steps between two shares of a training; 0 without a robust loss.

    NaN if the trial does not say how it was trained, or by a loss whose rise is not known.
    """
    config = trial.result.get("config")
    training = config.get("training") if isinstance(config, dict) else None
    if not isinstance(training, dict):
        return float("nan")
    plan = training.get("robust")
    if plan is None:
        return 0.0
    settings = plan["settings"]
    if plan["loss"] not in RAMPS and not {"warmup", "ramp"} <= set(settings):
        return float("nan")
    warmup, ramp = RAMPS.get(plan["loss"], (0.0, 1.0))
    warmup, ramp = settings.get("warmup", warmup), settings.get("ramp", ramp)
    steps = begin + (end - begin) * (np.arange(SAMPLES) + 0.5) / SAMPLES
    return float(settings["eps"] * np.clip((steps - warmup) / (ramp - warmup), 0, 1).mean())
