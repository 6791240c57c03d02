"""Loss, accuracy and the losses by which the epoch to keep was selected, against epochs."""

from __future__ import annotations

import pandas as pd

from nullclass.report.blocks import Drawing
from nullclass.report.measures import Measures
from nullclass.report.style import WIDE, line_style, percent_axis, sheet
from nullclass.results.store import Run

FILE = "fig_training_histories"
HEADINGS = {"loss": "Training loss", "train_accuracy": "Training accuracy"}


def training_histories(run: Run) -> Drawing | None:
    """Means over sets, bands from the lowest to the highest set."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    measures = Measures(run)
    tables = [
        trial.history.assign(model=trial.model)
        for trial in run.trials
        if trial.selection == measures.selection and "epoch" in trial.history
    ]
    if not tables:
        return None
    history = pd.concat(tables)
    losses = {f"{name}_loss": f"Selection loss, {name}" for name in measures.selections}
    shown = {
        column: heading
        for column, heading in (HEADINGS | losses).items()
        if column in history and history[column].notna().any()
    }
    models = [model for model in measures.models if model in set(history["model"])]
    num_rows = (len(shown) + 1) // 2
    alt = f"{', '.join(shown.values())} against epochs for {', '.join(models)}"
    with sheet(FILE, alt, (WIDE, 0.7 + 2.3 * num_rows)) as (figure, drawn):
        axes = list(figure.subplots(num_rows, 2, squeeze=False).flat)
        for axis, (column, heading) in zip(axes, shown.items(), strict=False):
            by = history.groupby(["model", "epoch"])[column].agg(["mean", "min", "max"])
            for model in models:
                curve, style = by.loc[model], line_style(measures.models, model)
                epochs = curve.index.to_numpy()
                axis.fill_between(
                    epochs,
                    curve["min"].to_numpy(),
                    curve["max"].to_numpy(),
                    color=style["color"],
                    alpha=0.12,
                    linewidth=0,
                )
                axis.plot(
                    epochs,
                    curve["mean"],
                    label=model,
                    markersize=4,
                    linewidth=1.3,
                    **style,
                )
            axis.set_title(heading, loc="left")
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(axis="y")
            if column == "train_accuracy":
                percent_axis(axis.yaxis)
            elif by["min"].min() > 0:
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.yaxis.set_minor_formatter(NullFormatter())
        for axis in axes[len(shown) :]:
            axis.set_axis_off()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(models))
    several = len(measures.seeds) > 1
    return Drawing(
        "Training histories",
        "Loss and accuracy: means over the steps of an epoch, real and null images together, with "
        "dropout. Selection loss: after an epoch, on the images of that selection with as many "
        "null images (none for the base model); the epoch where it is lowest is kept. "
        f"{measures.seeds_text('set')}"
        f"{'; line: mean over sets, band: lowest to highest set' if several else ''}. No attack.",
        drawn,
    )
