"""Robustness distribution: at which ε the images are fooled, and up to which ε they are proved."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from nullclass.metrics.distribution import QUANTILES, quantile, robustness_distribution
from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Drawing, Panel, Table
from nullclass.report.formatting import eps_text, percent
from nullclass.report.measures import Measures
from nullclass.report.style import FAINT, INK, OUTCOME_COLOURS, panel, percent_axis
from nullclass.report.tables import make_table
from nullclass.results.run import Trial
from nullclass.results.schema import SMALLEST

NEVER = "–"


def smallest_eps(trial: Trial, measures: Measures) -> Drawing | None:
    """Share of images that some ε up to this one fools, and of those not proved there."""
    found = robustness_distribution(trial.rows, trial.proved_eps)
    if found.empty:
        return None
    num, is_proved = len(found), len(trial.proved_eps) > 0
    sizes, median = found["fooled_at"], quantile(found["fooled_at"], 0.5)
    finite = sizes[np.isfinite(sizes)]
    end = 1.05 * float(finite.max()) if len(finite) and finite.max() > 0 else 1.0
    panels: list[Panel] = []
    with panel(
        panels,
        "fig_smallest_eps",
        "share of images that an ε fools, against ε",
        2.9 + 0.4 * is_proved,
        legend=2 * is_proved,
    ) as axis:
        at = np.unique(np.concatenate([[0.0, end], finite, found["proved_to"].clip(0, end)]))
        fooled, undecided = _share_at(sizes, at), _share_at(found["proved_to"], at)
        colour = OUTCOME_COLOURS["fooled"]
        axis.plot(at, fooled, drawstyle="steps-post", color=colour, label="fooled by an attack")
        axis.fill_between(at, fooled, step="post", color=colour, alpha=0.12, linewidth=0)
        if is_proved:
            axis.plot(
                at,
                undecided,
                drawstyle="steps-post",
                color=OUTCOME_COLOURS["correct"],
                label="not proved safe",
            )
            axis.fill_between(
                at, fooled, undecided, step="post", color=FAINT, alpha=0.5, linewidth=0,
                label="open: neither",
            )  # fmt: skip
        if math.isfinite(median):
            axis.plot([median] * 2, [0, 0.5], color=INK, linewidth=0.9)
        axis.set(xlim=(0, end), ylim=(0, 1.03), xlabel="ε, pixel units")
        axis.set_ylabel("images, up to this ε", fontsize=8)
        axis.grid()
        percent_axis(axis.yaxis)
    never = num - len(finite)
    low, high = wilson(never, num)
    half = (
        f"Half of the images are fooled by ε {eps_text(median)} or less (median)."
        if math.isfinite(median)
        else "More than half of the images are never fooled, so there is no median."
    )
    side = (
        f"The true curve is between the two ({trial.proved_eps['verifier'].iloc[0]} bounds)."
        if is_proved
        else "The true curve is at or above this one."
    )
    return Drawing(
        "The smallest ε that fools",
        f"{half} Not fooled by any ε: {percent(never / num)} % ({percent(low)} to "
        f"{percent(high)}). Wrong when clean (ε 0): {int((sizes == 0).sum()):,}. "
        f"{measures.norm(SMALLEST)}, ε in pixel units, the first {num:,} test images, "
        f"{measures.seeds_text()}. The search finds an ε that fools, not necessarily the "
        f"smallest. {side}",
        panels,
        is_large=True,
    )


def distribution_table(trial: Trial, measures: Measures) -> Table | None:
    """Quantiles of the smallest ε that fools and of the largest ε proved."""
    found = robustness_distribution(trial.rows, trial.proved_eps)
    if found.empty or not len(trial.proved_eps):
        return None
    rows = [
        [f"{100 * share:g} %", *(_quantile(found[of], share) for of in ("proved_to", "fooled_at"))]
        for share in QUANTILES
    ]
    num_none = int(np.isneginf(found["proved_to"]).sum())
    num_broken = int(found["is_broken"].sum())
    return make_table(
        "Robustness distribution",
        ["share of images", ("proved up to ε", "at most"), ("fooled at ε", "at most")],
        rows,
        f"{NEVER}: nothing is proved, or no ε fools. Nothing is proved of {num_none:,} images. "
        f"Images fooled within their proved ε: {num_broken:,} (any is a red flag, proof-broken). "
        f"{measures.norm(SMALLEST)}, n = {len(found):,}, {measures.seeds_text()}.",
    )


def _quantile(sizes: pd.Series[float], share: float) -> str:
    value = quantile(sizes, share)
    return eps_text(value) if math.isfinite(value) else NEVER


def _share_at(sizes: pd.Series[float], at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The share of sizes up to each ε."""
    shares: npt.NDArray[np.float64] = np.searchsorted(np.sort(sizes), at, side="right") / len(sizes)
    return shares
