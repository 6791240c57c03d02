"""The notebook's conclusion: are FGSM images that pass unnoticed too weak to matter?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.figures.outcomes import eps_label
from nullclass.report.measures import FGSM, Measures, pixel_per_unit
from nullclass.report.style import OUTCOME_COLOURS, panel, percent_axis
from nullclass.report.tables import unnoticed as count_unnoticed
from nullclass.results.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def unnoticed(run: Run) -> Drawing | None:
    """Share of FGSM images that are neither null nor correct, against eps."""
    measures = Measures(run)
    counts = count_unnoticed(run)
    unit = pixel_per_unit(run.info)
    panels = []
    for model in measures.models:
        of = counts[counts["model"] == model].groupby("eps_pixels").sum(numeric_only=True)
        if of.empty:
            continue
        alt = f"{model}: share of FGSM images that are neither null nor correct, against eps"
        with panel(f"unnoticed-{model}", alt, 2.3) as (axes, drawn):
            _bars(axes[0], of, unit)
        panels.append(Panel(drawn[0], model))
    if not panels:
        return None
    units = "ε in the notebook's units, pixel units below it" if unit else "ε in pixel units"
    pooled = " together" if len(measures.seeds) > 1 else ""
    return Drawing(
        "What goes unnoticed",
        f"FGSM, {measures.num_images(FGSM)} images, {measures.seeds_text()}{pooled}; {units}. "
        "Each bar: the share of all attacked images that were answered with a wrong class, neither "
        "null nor correct, with its 95 % Wilson interval and the number of such images.",
        panels,
        [("fooled", OUTCOME_COLOURS["fooled"])],
    )


def _bars(axis: Axes, of: pd.DataFrame, unit: float | None) -> None:
    labels = []
    for place, (eps, line) in enumerate(of.iterrows()):
        num, fooled = int(line["num_images"]), int(line["num_fooled"])
        value = float(str(eps))
        labels.append(eps_label(value, unit))
        low, top = wilson(fooled, num)
        share = fooled / num
        axis.bar(place, share, width=0.7, color=OUTCOME_COLOURS["fooled"])
        axis.errorbar(
            place,
            share,
            yerr=[[share - low], [top - share]],
            color="#333333",
            elinewidth=0.9,
            capsize=2,
        )
        told = _short(fooled)
        axis.annotate(
            told, (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=7
        )
    axis.set_xticks(range(len(labels)), labels)
    axis.tick_params(axis="x", length=0, labelsize=7.5)
    axis.set_xlim(-0.6, len(labels) - 0.4)
    axis.set_ylim(0, 1.25)  # room for the numbers above a full bar
    axis.set_yticks([0, 0.5, 1])
    percent_axis(axis.yaxis)


def _short(count: int) -> str:
    """A count in at most five characters, so that seven of them fit beside each other."""
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.3g}k"
