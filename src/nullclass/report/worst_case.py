"""Views of one evaluation's rows: worst case per image, and groups of images with null scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from nullclass.core.outcomes import NULL_LABEL
from nullclass.report.formatting import attack_name, eps_text
from nullclass.report.measures import NULL_AWARE
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run, Trial

OOD = "ood:"
"""Prefix of a source of inputs of no class in ``scores.csv``."""
CLEAN_COLOUR = "#0072B2"
ATTACK_COLOURS = ("#F2B680", "#E08A45", "#D55E00", "#8A3C00")
"""From the smallest ε to the largest; the number of budgets shown at most."""
OOD_COLOURS = ("#009E73", "#CC79A7", "#6A3D9A", "#56B4E9", "#7C828A")

Item = TypeVar("Item")


def only_trial(run: Run) -> Trial | None:
    """The one trial of an evaluation, if there is one."""
    return run.trials[0] if run.trials else None


def can_refuse(rows: pd.DataFrame) -> bool:
    """Whether the model can answer null."""
    return bool(rows["null_loss"].notna().any() or (rows["prediction"] == NULL_LABEL).any())


@dataclass(frozen=True)
class WorstCaseTable:
    """The images and rows of the union (:func:`nullclass.metrics.rates.summarise`)."""

    clean: pd.DataFrame = field(repr=False)
    """Clean rows of the images that every attack was run on, by image."""
    attacked: pd.DataFrame = field(repr=False)
    """Rows of these images under all attacks, whatever their budgets."""

    def answers(self, eps: float) -> pd.Series[int]:
        """The worst answer per image, -1 for null.

        The first wrong class, ε ascending from the clean image; else null if it occurs; else the
        true class.
        """
        columns = ["image", "prediction", "outcome"]
        within = self.attacked[self.attacked["eps_pixels"] <= eps]
        within = within.sort_values("eps_pixels", kind="stable")
        rows = pd.concat([self.clean.reset_index()[columns], within[columns]])
        answers = self.clean["label"].copy()
        answers[answers.index.isin(rows.loc[rows["outcome"] == "null", "image"])] = NULL_LABEL
        fooled = rows[rows["outcome"] == "fooled"].drop_duplicates("image")
        answers.update(fooled.set_index("image")["prediction"])
        return answers.astype("int64")


def worst_case_table(rows: pd.DataFrame) -> WorstCaseTable:
    """The clean images that every attack with a given ε was run on."""
    clean = rows[rows["attack"] == CLEAN].set_index("image")
    attacked = [set(group["image"]) for _, group in with_given_eps(rows).groupby("attack")]
    images = sorted(set(clean.index).intersection(*attacked))
    is_attacked = (rows["attack"] != CLEAN) & rows["image"].isin(images)
    return WorstCaseTable(clean.loc[images], rows[is_attacked])


def with_given_eps(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the attacks with one ε for all images."""
    return rows[(rows["attack"] != CLEAN) & ~rows["has_own_eps"]]


def strongest(rows: pd.DataFrame) -> str | None:
    """The attack to show where there is room for one: null-aware first, then most fooled."""
    attacked = with_given_eps(rows)
    if attacked.empty:
        return None
    is_fooled = attacked["outcome"] == "fooled"
    counts = attacked.assign(fooled=is_fooled).groupby(["attack", "objective"])["fooled"].sum()
    best = max(
        counts.index, key=lambda key: (key[0] in NULL_AWARE, key[1] == "fool", int(counts[key]))
    )
    return str(best[0])


@dataclass(frozen=True, eq=False)
class Population:
    """Null scores of one kind of images: clean, attacked or of no class."""

    name: str
    attack: str
    """Value of ``attack`` in ``scores.csv``."""
    eps: float
    """In pixel units; NaN for inputs of no class."""
    colour: str
    scores: npt.NDArray[np.float64] = field(repr=False)
    """Null scores."""


def clean_images(trial: Trial) -> Population:
    """All clean test images."""
    rows = trial.rows[trial.rows["attack"] == CLEAN]
    return Population("clean", CLEAN, 0.0, CLEAN_COLOUR, rows["null_score"].to_numpy())


def attacked_images(trial: Trial) -> list[Population]:
    """Images of the strongest attack, one population per ε."""
    attack, rows = strongest(trial.rows), with_given_eps(trial.rows)
    if attack is None:
        return []
    groups = [*rows[rows["attack"] == attack].groupby("eps_pixels")["null_score"]]
    shown = subsample(groups, len(ATTACK_COLOURS))
    colours = subsample(ATTACK_COLOURS, len(shown)) if len(shown) > 1 else [ATTACK_COLOURS[2]]
    return [
        Population(
            f"{attack_name(attack)}, ε {eps_text(eps)}", attack, eps, colour, scores.to_numpy()
        )
        for (eps, scores), colour in zip(shown, colours, strict=True)
    ]


def inputs_of_no_class(trial: Trial) -> list[Population]:
    """Inputs of no class, one population per source."""
    sources = trial.ood.groupby("source", sort=False)["null_score"]
    return [
        Population(
            str(source),
            f"{OOD}{source}",
            math.nan,
            OOD_COLOURS[index % len(OOD_COLOURS)],
            scores.to_numpy(),
        )
        for index, (source, scores) in enumerate(sources)
    ]


def score_of(trial: Trial, population: Population, metric: str) -> float:
    """A metric of a population in ``scores.csv``; NaN if missing."""
    table = trial.scores
    is_it = (table["attack"] == population.attack) & (table["metric"] == metric)
    if not math.isnan(population.eps):
        is_it &= (table["eps_pixels"] - population.eps).abs() < 1e-6
    found = table.loc[is_it, "value"]
    return float(found.iloc[0]) if len(found) else math.nan


def subsample(items: Sequence[Item], num: int) -> list[Item]:
    """At most ``num`` items: the first, the last and evenly spaced ones between."""
    indices = np.linspace(0, len(items) - 1, min(num, len(items))).round().astype(int)
    return [items[index] for index in indices]
