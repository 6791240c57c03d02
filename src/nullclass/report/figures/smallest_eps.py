"""How far an image must be moved before it fools the model: the distribution over images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nullclass.report.blocks import Drawing
from nullclass.report.evaluation_tables import share_with_interval
from nullclass.report.judged import only_trial
from nullclass.report.measures import CLEAN, NORMS, SMALLEST, Measures, eps_text
from nullclass.report.style import OUTCOME_COLOURS, WIDTH, percent_axis, sheet
from nullclass.results.store import Run

FILE = "fig_smallest_eps"


@dataclass(frozen=True)
class Smallest:
    """What the search found."""

    sizes: npt.NDArray[np.float64] = field(repr=False)
    """The smallest eps found of every image, rising; infinite where none was."""

    @property
    def num_found(self) -> int:
        """Images that some eps fools."""
        return int(np.isfinite(self.sizes).sum())

    @property
    def median(self) -> float:
        """The eps at which half of the images are fooled; infinite if that many never are."""
        return float(self.sizes[(len(self.sizes) - 1) // 2])


def smallest_of(run: Run) -> tuple[Smallest, str] | None:
    """The sizes an evaluation found, and their norm; ``None`` if it did not look for any."""
    trial = only_trial(run)
    if trial is None:
        return None
    rows = trial.rows[trial.rows["attack"] == SMALLEST]
    if rows.empty:
        return None
    sizes = rows["eps_pixels"].where(rows["member"] != CLEAN, math.inf)
    return Smallest(np.sort(sizes.to_numpy())), str(rows["norm"].iloc[0])


def smallest_eps(run: Run) -> Drawing | None:
    """The share of images that some eps up to this one fools, as a step function."""
    found = smallest_of(run)
    if found is None:
        return None
    smallest, norm = found
    num = len(smallest.sizes)
    sizes = smallest.sizes[np.isfinite(smallest.sizes)]
    reach = 1.05 * float(sizes[-1]) if len(sizes) and sizes[-1] > 0 else 1.0
    colour = OUTCOME_COLOURS["fooled"]
    alt = "share of images that an eps fools, against eps"
    with sheet(FILE, alt, (WIDTH, 2.9)) as (figure, drawn):
        axis = figure.subplots()
        at = np.concatenate([[0.0], sizes, [reach]])
        shares = np.concatenate([[0], np.arange(1, len(sizes) + 1), [len(sizes)]]) / num
        axis.plot(at, shares, drawstyle="steps-post", color=colour)
        axis.fill_between(at, shares, step="post", color=colour, alpha=0.12, linewidth=0)
        if math.isfinite(smallest.median):
            axis.plot([smallest.median] * 2, [0, 0.5], color="#1D1F22", linewidth=0.9)
            axis.annotate(
                f"median ε {eps_text(smallest.median)}",
                (smallest.median, 0.5),
                (5, 2) if smallest.median < 0.7 * reach else (-5, 4),
                textcoords="offset points",
                ha="left" if smallest.median < 0.7 * reach else "right",
                va="top" if smallest.median < 0.7 * reach else "bottom",
                fontsize=8.5,
            )
        axis.set_xlim(0, reach)
        axis.set_ylim(0, 1.03)
        axis.set_xlabel("ε, pixel units")
        axis.set_ylabel("images fooled by an ε up to here", fontsize=8)
        axis.grid()
        percent_axis(axis.yaxis)
    return Drawing(
        "The smallest ε that fools",
        f"{_told(smallest)} {NORMS.get(norm, norm)}, ε in pixel units, the first {num:,} test "
        f"images, {Measures(run).seeds_text()}. A search proves that its ε fools, not that no "
        "smaller one does: the true curve lies at or above this one.",
        drawn,
        is_large=True,
    )


def _told(smallest: Smallest) -> str:
    """Median, share never fooled, share wrong without any attack."""
    num = len(smallest.sizes)
    told = (
        f"Half of the images are fooled by ε {eps_text(smallest.median)} or less (median)."
        if math.isfinite(smallest.median)
        else "More than half of the images were never fooled, so there is no median."
    )
    never = num - smallest.num_found
    if never:
        told += f" Never fooled, by any ε: {share_with_interval(never, num)} of the images."
    else:
        told += " Every image can be fooled."
    already = int((smallest.sizes == 0).sum())
    if already:
        told += f" Wrong when clean (ε 0): {already:,}."
    return told
