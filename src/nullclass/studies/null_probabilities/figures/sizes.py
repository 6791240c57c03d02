"""Where probability and answers go as images are perturbed more: a panel a model, stacked shares.

Null stands at the bottom, so that its upper edge is p_NULL and can be read against f.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import attack_name
from nullclass.report.style import OUTCOME_COLOURS, WIDTH, percent_axis, sheet
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.by_size import by_size, curve_of
from nullclass.studies.null_probabilities.defences import NORM_WORDS, own_norm, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROBABILITIES = {
    "p_null": ("null", OUTCOME_COLOURS["null"]),
    "rest": ("wrong classes", OUTCOME_COLOURS["fooled"]),
    "p_label": ("true class", OUTCOME_COLOURS["correct"]),
}
ANSWERS = {word: (word, OUTCOME_COLOURS[word]) for word in ("null", "fooled", "correct")}
"""Columns, from the bottom, to their names and colours."""

F_COLOUR = "#1D1F22"


def probability_by_size(run: Run) -> Drawing | None:
    """Mean probability of null, of the wrong classes and of the true class."""
    means = by_size(run)
    if means.empty:
        return None
    legend = [*PROBABILITIES.values()]
    if means["f"].notna().any():
        legend.append(("f (dashed), of the models trained with it", F_COLOUR))
    return Drawing(
        "Where probability goes",
        "Mean probability of null, of all wrong classes together and of the true class, stacked: "
        "they sum to 1. Dashed: f, read at the size that came out, in the panels of models trained "
        "with it; the upper edge of null should lie on it as far as the dotted line, the end of "
        "the trained range. Probabilities are the network's own: the clean model and CCAT have no "
        "null class, so theirs of null is 0; CCAT says that it does not know by spreading "
        f"probability evenly, which leaves most of it to the wrong classes. {_told(means)}",
        _panels(run, means, "probability", PROBABILITIES, "mean probability"),
        legend,
    )


def answers_by_size(run: Run) -> Drawing | None:
    """Shares of images answered with null, a wrong class, the true class."""
    means = by_size(run)
    if means.empty:
        return None
    return Drawing(
        "Answers by size",
        "The same images by what the model answers: null, a wrong class (fooled), the true class. "
        "CCAT answers by its threshold, the others by the largest logit. These perturbations do "
        "not look for a way past null: what an attacker does stands under the white-box numbers. "
        f"{_told(means)}",
        _panels(run, means, "answers", ANSWERS, "share of images"),
        [*ANSWERS.values()],
    )


def _told(means: pd.DataFrame) -> str:
    makers = means.drop_duplicates("norm").set_index("norm")["perturbation"]
    named = "; ".join(
        f"{NORM_WORDS[norm].short}: {attack_name(makers[norm])}"
        for norm in NORM_WORDS
        if norm in makers
    )
    nums = " to ".join(f"{n:,}" for n in sorted(set(means["num_images"])))
    seeds = sorted(set(means["seed"]))
    many = (
        f"mean over {len(seeds)} seeds, each seed a thin line"
        if len(seeds) > 1
        else f"seed {seeds[0]}"
    )
    return (
        f"Perturbed on the model itself against its cross-entropy ({named}), {nums} test images, "
        f"{many}. L∞ and L2 in pixel units; L0 is the share of pixels changed."
    )


def _panels(
    run: Run, means: pd.DataFrame, name: str, layers: Mapping[str, tuple[str, str]], what: str
) -> list[Panel]:
    measures = [norm for norm in NORM_WORDS if norm in set(means["norm"])]
    panels = []
    for model in means["model"].unique():
        alt = f"{short(model)}: {what} of {', '.join(n for n, _ in layers.values())} against size"
        size = (WIDTH, 0.3 + 1.55 * len(measures))
        with sheet(f"fig_{name}_by_size_{model}", alt, size) as (figure, drawn):
            axes = figure.subplots(len(measures), 1, squeeze=False)[:, 0]
            for axis, norm in zip(axes, measures, strict=True):
                of = means[(means["model"] == model) & (means["norm"] == norm)]
                _stack(axis, of, layers)
                if name == "probability" and own_norm(model) == norm:
                    _follow(axis, run, of, norm)
                _finish(axis, norm)
        (panel,) = drawn
        panels.append(Panel(panel.html, short(model), panel.file, panel.svg, panel.png))
    return panels


def _stack(axis: Axes, of: pd.DataFrame, layers: Mapping[str, tuple[str, str]]) -> None:
    mean = of.groupby("size")[list(layers)].mean()
    if mean.empty:
        return
    axis.stackplot(
        mean.index.to_numpy(),
        *(mean[column] for column in layers),
        colors=[colour for _, colour in layers.values()],
        linewidth=0,
    )
    if of["seed"].nunique() > 1:
        for _, alone in of.groupby("seed"):
            edges = alone.sort_values("size").set_index("size")[list(layers)].cumsum(axis=1)
            for column in list(layers)[:-1]:
                axis.plot(edges.index, edges[column], color="#FFFFFF", linewidth=0.6)
    axis.set_xlim(0, mean.index.max())


def _follow(axis: Axes, run: Run, of: pd.DataFrame, norm: str) -> None:
    f = of.groupby("size")["f"].mean().dropna()
    axis.plot(f.index, f, color=F_COLOUR, linestyle=(0, (4, 2)), linewidth=1.4)
    for seed in of["seed"].unique():
        curve = curve_of(run, norm, int(seed))
        if curve is not None and curve.largest < of["size"].max():
            axis.axvline(curve.largest, color=F_COLOUR, linestyle=":", linewidth=1)


def _finish(axis: Axes, norm: str) -> None:
    told = NORM_WORDS[norm]
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1])
    percent_axis(axis.yaxis)
    if norm == "l0":
        percent_axis(axis.xaxis)
    axis.set_xlabel(told.axis, fontsize=8, labelpad=1)
