"""Distribution over images of the smallest ε that fools the model."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.formatting import SMALLEST, eps_text, percent
from nullclass.report.measures import Measures
from nullclass.report.style import INK, OUTCOME_COLOURS, panel, percent_axis
from nullclass.results.run import Trial
from nullclass.results.schema import NO_MEMBER


def smallest_of(trial: Trial) -> npt.NDArray[np.float64]:
    """The smallest ε per image, ascending; infinite if none was found."""
    rows = trial.rows[trial.rows["attack"] == SMALLEST]
    return np.sort(rows["eps_pixels"].where(rows["member"] != NO_MEMBER, math.inf).to_numpy())


def median_of(sizes: npt.NDArray[np.float64]) -> float:
    """The ε at which half of the images are fooled; infinite if fewer ever are."""
    return float(sizes[(len(sizes) - 1) // 2])


def smallest_eps(trial: Trial, measures: Measures) -> Drawing | None:
    """Share of images that some ε up to this one fools, as a step function."""
    sizes = smallest_of(trial)
    if not len(sizes):
        return None
    num, median, finite = len(sizes), median_of(sizes), sizes[np.isfinite(sizes)]
    end = 1.05 * float(finite[-1]) if len(finite) and finite[-1] > 0 else 1.0
    panels: list[Panel] = []
    with panel(
        panels, "fig_smallest_eps", "share of images that an ε fools, against ε", 2.9
    ) as axis:
        at = np.concatenate([[0.0], finite, [end]])
        shares = np.concatenate([[0], np.arange(1, len(finite) + 1), [len(finite)]]) / num
        colour = OUTCOME_COLOURS["fooled"]
        axis.plot(at, shares, drawstyle="steps-post", color=colour)
        axis.fill_between(at, shares, step="post", color=colour, alpha=0.12, linewidth=0)
        if math.isfinite(median):
            axis.plot([median] * 2, [0, 0.5], color=INK, linewidth=0.9)
        axis.set(xlim=(0, end), ylim=(0, 1.03), xlabel="ε, pixel units")
        axis.set_ylabel("images fooled by an ε up to here", fontsize=8)
        axis.grid()
        percent_axis(axis.yaxis)
    never = num - len(finite)
    low, high = wilson(never, num)
    half = (
        f"Half of the images are fooled by ε {eps_text(median)} or less (median)."
        if math.isfinite(median)
        else "More than half of the images are never fooled, so there is no median."
    )
    return Drawing(
        "The smallest ε that fools",
        f"{half} Not fooled by any ε: {percent(never / num)} % ({percent(low)} to "
        f"{percent(high)}). Wrong when clean (ε 0): {int((sizes == 0).sum()):,}. "
        f"{measures.norm(SMALLEST)}, ε in pixel units, the first {num:,} test images, "
        f"{measures.seeds_text()}. The search finds an ε that fools, not necessarily the "
        "smallest: the true curve is at or above this one.",
        panels,
        is_large=True,
    )
