"""Distribution over images of the smallest ε that fools the model."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Drawing
from nullclass.report.formatting import NORMS, SMALLEST, eps_text, percent
from nullclass.report.measures import Measures
from nullclass.report.sections import fill
from nullclass.report.style import INK, OUTCOME_COLOURS, WIDTH, percent_axis, sheet
from nullclass.report.worst_case import only_trial
from nullclass.results.schema import NO_MEMBER
from nullclass.results.store import Run

SENTENCES = (
    "Half of the images are fooled by ε {median} or less (median).",
    "More than half of the images are never fooled, so there is no median.{no_median}",
    "Not fooled by any ε: {never} of the images.",
    "Every image can be fooled.{all_fooled}",
    "Wrong when clean (ε 0): {num_clean}.",
)


def smallest_of(run: Run) -> tuple[npt.NDArray[np.float64], str] | None:
    """The smallest ε per image, ascending, infinite if none was found; and their norm."""
    trial = only_trial(run)
    rows = trial.rows[trial.rows["attack"] == SMALLEST] if trial else None
    if rows is None or rows.empty:
        return None
    sizes = rows["eps_pixels"].where(rows["member"] != NO_MEMBER, math.inf)
    return np.sort(sizes.to_numpy()), str(rows["norm"].iloc[0])


def median_of(sizes: npt.NDArray[np.float64]) -> float:
    """The ε at which half of the images are fooled; infinite if fewer ever are."""
    return float(sizes[(len(sizes) - 1) // 2])


def smallest_eps(run: Run) -> Drawing | None:
    """Share of images that some ε up to this one fools, as a step function."""
    found = smallest_of(run)
    if found is None:
        return None
    sizes, norm = found
    num, median, finite = len(sizes), median_of(sizes), sizes[np.isfinite(sizes)]
    end = 1.05 * float(finite[-1]) if len(finite) and finite[-1] > 0 else 1.0
    colour = OUTCOME_COLOURS["fooled"]
    alt = "share of images that an ε fools, against ε"
    with sheet("fig_smallest_eps", alt, (WIDTH, 2.9)) as (figure, drawn):
        axis = figure.subplots()
        at = np.concatenate([[0.0], finite, [end]])
        shares = np.concatenate([[0], np.arange(1, len(finite) + 1), [len(finite)]]) / num
        axis.plot(at, shares, drawstyle="steps-post", color=colour)
        axis.fill_between(at, shares, step="post", color=colour, alpha=0.12, linewidth=0)
        if math.isfinite(median):
            is_left = median < 0.7 * end
            axis.plot([median] * 2, [0, 0.5], color=INK, linewidth=0.9)
            axis.annotate(
                f"median ε {eps_text(median)}",
                (median, 0.5),
                (5, 2) if is_left else (-5, 4),
                textcoords="offset points",
                ha="left" if is_left else "right",
                va="top" if is_left else "bottom",
                fontsize=8.5,
            )
        axis.set(xlim=(0, end), ylim=(0, 1.03), xlabel="ε, pixel units")
        axis.set_ylabel("images fooled by an ε up to here", fontsize=8)
        axis.grid()
        percent_axis(axis.yaxis)
    never, num_clean = num - len(finite), int((sizes == 0).sum())
    values = {
        "median": eps_text(median) if math.isfinite(median) else None,
        "no_median": None if math.isfinite(median) else "",
        "never": share_text(never, num) if never else None,
        "all_fooled": None if never else "",
        "num_clean": f"{num_clean:,}" if num_clean else None,
    }
    return Drawing(
        "The smallest ε that fools",
        f"{' '.join(fill(SENTENCES, values))} {NORMS.get(norm, norm)}, ε in pixel units, the first "
        f"{num:,} test images, {Measures(run).seeds_text()}. The search finds an ε that fools, not "
        "necessarily the smallest: the true curve is at or above this one.",
        drawn,
        is_large=True,
    )


def share_text(num: int, total: int) -> str:
    """A share with its 95 % Wilson interval."""
    low, high = wilson(num, total)
    return f"{percent(num / total)} % ({percent(low)} to {percent(high)}; n = {total:,})"
