"""Training curves of the ramp models; null models continue from base."""

from __future__ import annotations

from typing import Any

from nullclass.report.blocks import Drawing
from nullclass.report.figures.training import ACCURACY, epoch_curve, histories, seeds_note
from nullclass.report.style import INK, WIDTH, line_style, percent_axis, sheet
from nullclass.results.store import Run, Trial

SHOWN = {"loss": "Training loss", ACCURACY: "Training accuracy"}
PUBLISHED = {("base", ACCURACY): 1.0, ("uniform", "loss"): 0.168, ("uniform", ACCURACY): 0.943}
"""Final values of the source's models, to the digits it gives ("near")."""


def start_epochs(trial: Trial) -> int:
    """Epochs of the trainings that a model continues from."""
    epochs = 0
    training: Any = trial.result.get("config", {}).get("training", {})
    while training.get("start"):
        training = training["start"]
        epochs += int(training["recipe"]["epochs"])
    return epochs


def ramp_training(run: Run) -> Drawing | None:
    """Loss and accuracy against epochs counted from base's first; means over seeds."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    history = histories(run, SHOWN, start_epochs)
    if history.empty:
        return None
    models = [*dict.fromkeys(trial.model for trial in run.trials)]
    shown = [model for model in models if model in set(history["model"])]
    starts = {start_epochs(trial) for trial in run.trials} - {0}
    alt = f"Training loss and accuracy against epochs of {', '.join(shown)}"
    with sheet("fig_ramp_training_histories", alt, (WIDTH, 4.0)) as (figure, drawn):
        upper, lower = figure.subplots(2, 1, sharex=True)
        handles: dict[str, Any] = {}
        for axes, (column, title) in zip((upper, lower), SHOWN.items(), strict=True):
            for model in shown:
                of = history[history["model"] == model]
                style = line_style(models, model) | {"markevery": 1 + of["epoch"].nunique() // 10}
                epoch_curve(axes, of, column, label=model, **style)
                if (model, column) in PUBLISHED:
                    axes.plot(
                        of["epoch"].max(),
                        PUBLISHED[model, column],
                        "*",
                        label="published",
                        color="#CC79A7",
                        markersize=11,
                        markeredgecolor=INK,
                        markeredgewidth=0.7,
                        zorder=3,
                    )
            for start in starts:
                axes.axvline(start + 0.5, color="#999999", linewidth=0.8, linestyle="--")
            axes.set_title(title, loc="left", fontsize=9)
            axes.grid(axis="y")
            handles |= {
                handle.get_label(): handle for handle in axes.get_legend_handles_labels()[0]
            }
        upper.set_yscale("log")
        upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        upper.yaxis.set_minor_formatter(NullFormatter())
        lower.set_ylim(top=1.02)
        percent_axis(lower.yaxis)
        lower.set_xlabel("epoch")
        ordered = [handles[name] for name in (*shown, "published") if name in handles]
        figure.legend(handles=ordered, loc="outside lower center", ncols=4)
    after = " Null models continue from base at the dashed line." if starts else ""
    return Drawing(
        "Training",
        "Means over the steps of an epoch on ramps and null images, with dropout. "
        f"{seeds_note(run)}{after} Stars: approximate final values of the source's models, drawn "
        "at the end of ours.",
        drawn,
        is_large=True,
    )
