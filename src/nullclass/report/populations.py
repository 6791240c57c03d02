"""Groups of images whose null scores are set side by side: clean, attacked, of no class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nullclass.report.evaluation_tables import OOD
from nullclass.report.judged import given, strongest
from nullclass.report.measures import CLEAN, attack_name, eps_text
from nullclass.results.store import Trial

CLEAN_COLOUR = "#0072B2"
ATTACKED_COLOURS = ("#F2B680", "#E08A45", "#D55E00", "#8A3C00")
"""From the smallest eps to the largest."""
OUTSIDE_COLOURS = ("#009E73", "#CC79A7", "#6A3D9A", "#56B4E9", "#7C828A")

NUM_BUDGETS = len(ATTACKED_COLOURS)
"""Budgets shown at most: the smallest, the largest, and some between."""


@dataclass(frozen=True, eq=False)
class Population:
    """Images of one kind."""

    name: str
    attack: str
    """Where it stands in ``scores.csv``: ``none``, an attack, or a source of inputs of no class."""
    eps: float
    """In pixel units; NaN for inputs of no class."""
    colour: str
    scores: npt.NDArray[np.float64] = field(repr=False)
    """Null scores, larger for more null."""


def clean_images(trial: Trial) -> Population:
    """All clean test images."""
    rows = trial.rows[trial.rows["attack"] == CLEAN]
    return Population("clean", CLEAN, 0.0, CLEAN_COLOUR, rows["null_score"].to_numpy())


def attacked_images(trial: Trial) -> list[Population]:
    """Images of the strongest attack, a population an eps."""
    attack = strongest(trial.rows)
    if attack is None:
        return []
    rows = given(trial.rows)
    rows = rows[rows["attack"] == attack]
    budgets = sorted(rows["eps_pixels"].unique())
    shown = some_of(budgets, NUM_BUDGETS)
    colours = some_of(ATTACKED_COLOURS, len(shown)) if len(shown) > 1 else ["#D55E00"]
    return [
        Population(
            f"{attack_name(attack)}, ε {eps_text(eps)}",
            attack,
            eps,
            colour,
            rows.loc[rows["eps_pixels"] == eps, "null_score"].to_numpy(),
        )
        for eps, colour in zip(shown, colours, strict=True)
    ]


def inputs_of_no_class(trial: Trial) -> list[Population]:
    """Inputs of no class, a population a source."""
    sources = trial.ood.groupby("source", sort=False)["null_score"]
    return [
        Population(
            str(source),
            f"{OOD}{source}",
            math.nan,
            OUTSIDE_COLOURS[place % len(OUTSIDE_COLOURS)],
            scores.to_numpy(),
        )
        for place, (source, scores) in enumerate(sources)
    ]


def score_of(trial: Trial, population: Population, metric: str) -> float:
    """A metric of a population in ``scores.csv``; NaN if it is not there."""
    table = trial.scores
    is_it = (table["attack"] == population.attack) & (table["metric"] == metric)
    if not math.isnan(population.eps):
        is_it &= (table["eps_pixels"] - population.eps).abs() < 1e-6
    found = table.loc[is_it, "value"]
    return float(found.iloc[0]) if len(found) else math.nan


Item = TypeVar("Item")


def some_of(items: Sequence[Item], num: int) -> list[Item]:
    """The first, the last and evenly some between, at most `num`."""
    places = np.linspace(0, len(items) - 1, min(num, len(items))).round().astype(int)
    return [items[place] for place in places]
