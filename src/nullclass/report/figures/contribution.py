"""What each member of an ensemble added at every eps: stacked bars."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.judged import only_trial
from nullclass.report.measures import GOALS, attack_name, eps_text
from nullclass.report.style import WIDTH, percent_axis, sheet
from nullclass.results.store import Run, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FALLEN = "fallen before"
BEFORE = "#E3E5E8"
"""Of images that were not there to be felled any more."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#6A3D9A")
"""Of members, neighbours far apart."""
HATCHES = ("", "////", "....")
"""A second and third time through the colours."""


def contribution(run: Run) -> Drawing | None:
    """A panel an ensemble, a bar an eps."""
    trial = only_trial(run)
    if trial is None:
        return None
    costs = trial.costs[trial.costs["eps_pixels"].notna()]
    panels = []
    for attack, of in costs.groupby("attack", sort=False):
        if of["member"].nunique() > 1:
            panels.append(_panel(trial, str(attack), of))
    if not panels:
        return None
    return Drawing(
        "What each member added",
        "An ensemble's members go one after another, and at a larger ε only what still stands is "
        "attacked again. So a colour counts the images that this member felled at this ε and that "
        "nothing before it had: not the model unattacked, not a smaller ε, not a member before "
        "it. Grey had fallen before; the rest of the bar, left white, still stands. A member "
        "without a colour felled nothing. The numbers are in the table below.",
        panels,
        is_large=True,
    )


def _panel(trial: Trial, attack: str, costs: pd.DataFrame) -> Panel:
    num = int(trial.rows.loc[trial.rows["attack"] == attack, "image"].nunique())
    goal = GOALS.get(str(costs["objective"].iloc[0]), "")
    heading = f"{attack_name(attack)}: {num:,} images; felled: answered {goal}"
    alt = f"share of images that each member of {attack} felled, against eps"
    shares = shares_felled(costs, num)
    height = 2.6 + 0.19 * math.ceil(len(shares.columns) / 2)
    with sheet(f"fig_contribution_{attack}", alt, (WIDTH, height)) as (figure, drawn):
        _bars(figure.subplots(), shares)
        figure.legend(loc="outside lower center", ncols=2)
    (panel,) = drawn
    return Panel(panel.html, heading, panel.file, panel.svg, panel.png)


def shares_felled(costs: pd.DataFrame, num_images: int) -> pd.DataFrame:
    """Shares of all images, a line an eps: fallen before, then by each member that felled any.

    Args:
        costs: Of one ensemble (:data:`nullclass.results.schema.COST_COLUMNS`).
        num_images: How many images it was asked about.
    """
    by_eps = costs.groupby("eps_pixels", sort=True)
    # Who comes first is given all that stands.
    felled = pd.DataFrame({FALLEN: num_images - by_eps["num_images"].first()})
    for member, of in costs.groupby("member", sort=False):
        if of["num_successes"].any():
            felled[str(member)] = of.set_index("eps_pixels")["num_successes"]
    return felled.fillna(0) / num_images


def _bars(axis: Axes, shares: pd.DataFrame) -> None:
    places = range(len(shares))
    bottoms = pd.Series(0.0, index=shares.index)
    for order, name in enumerate(shares.columns):
        axis.bar(
            places,
            shares[name],
            bottom=bottoms,
            width=0.7,
            color=COLOURS[order % len(COLOURS)] if order else BEFORE,
            hatch=HATCHES[order // len(COLOURS) % len(HATCHES)],
            edgecolor="white",
            linewidth=0.4,
            label=name,
        )
        bottoms += shares[name]
    axis.set_xticks(places, [eps_text(float(str(eps))) for eps in shares.index])
    axis.set_xlabel("ε, pixel units")
    axis.tick_params(axis="x", length=0, labelsize=8 if len(shares) < 12 else 6)
    axis.set_xlim(-0.6, max(len(shares), 3) - 0.4)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1])
    axis.grid(axis="y")
    percent_axis(axis.yaxis)
