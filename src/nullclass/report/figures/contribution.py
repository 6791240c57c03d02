"""Successes of each member of an attack ensemble at every ε, as stacked bars."""

from __future__ import annotations

import math

import pandas as pd

from nullclass.report.blocks import Drawing
from nullclass.report.formatting import GOALS, attack_name, eps_text
from nullclass.report.style import WIDTH, sheet, stacked_bars
from nullclass.report.worst_case import only_trial
from nullclass.results.store import Run

BEFORE = "already successful"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#6A3D9A")
"""Of members, neighbours far apart."""
HATCHES = ("", "////", "....")
"""For a second and third round of colours."""


def contribution(run: Run) -> Drawing | None:
    """One panel per ensemble, one bar per ε."""
    trial = only_trial(run)
    if trial is None:
        return None
    costs = trial.costs[trial.costs["eps_pixels"].notna()]
    panels = []
    for attack, of in costs.groupby("attack", sort=False):
        if of["member"].nunique() < 2:
            continue
        num = int(trial.rows.loc[trial.rows["attack"] == attack, "image"].nunique())
        shares = success_shares(of, num)
        goal = GOALS.get(str(of["objective"].iloc[0]), "")
        heading = f"{attack_name(str(attack))}: {num:,} images; success: {goal}"
        alt = f"share of successes of each member of {attack} against ε"
        size = (WIDTH, 2.6 + 0.19 * math.ceil(len(shares.columns) / 2))
        with sheet(f"fig_contribution_{attack}", alt, size, heading) as (figure, drawn):
            axis = figure.subplots()
            parts = [
                (
                    shares[name].tolist(),
                    {
                        "color": COLOURS[index % len(COLOURS)] if index else "#E3E5E8",
                        "hatch": HATCHES[index // len(COLOURS) % len(HATCHES)],
                        "linewidth": 0.4,
                        "label": name,
                    },
                )
                for index, name in enumerate(shares.columns)
            ]
            labels = [eps_text(float(str(eps))) for eps in shares.index]
            stacked_bars(axis, labels, parts, width=0.7)
            axis.set_xlabel("ε, pixel units")
            axis.set_xlim(-0.6, max(len(shares), 3) - 0.4)
            axis.grid(axis="y")
            figure.legend(loc="outside lower center", ncols=2)
        panels += drawn
    if not panels:
        return None
    return Drawing(
        "Successes per member",
        "Members of an ensemble run one after another, each on the images that are still active. "
        "At a larger ε only the active images are attacked again. A colour counts the new "
        "successes of one member at one ε. Grey: successes at a smaller ε and clean images that "
        "already count. White: still active. Members without a colour have no success. The table "
        "below gives the numbers.",
        panels,
        is_large=True,
    )


def success_shares(costs: pd.DataFrame, num_images: int) -> pd.DataFrame:
    """Shares of all images, one row per ε: earlier successes, then those of each member.

    Args:
        costs: Of one ensemble (:data:`nullclass.results.schema.COST_COLUMNS`).
        num_images: Number of images of the ensemble.
    """
    by_eps = costs.groupby("eps_pixels", sort=True)
    # the first member gets all active images
    counts = pd.DataFrame({BEFORE: num_images - by_eps["num_images"].first()})
    for member, of in costs.groupby("member", sort=False):
        if of["num_successes"].any():
            counts[str(member)] = of.set_index("eps_pixels")["num_successes"]
    return counts.fillna(0) / num_images
