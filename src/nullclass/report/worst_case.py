"""Views of one evaluation's rows: the worst case per image, the strongest attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pandas as pd

from nullclass.core.outcomes import NULL_LABEL
from nullclass.metrics.rates import attacked_by_all, with_given_eps
from nullclass.report.measures import NULL_AWARE
from nullclass.results.schema import CLEAN

Item = TypeVar("Item")


@dataclass(frozen=True)
class WorstCaseTable:
    """The images and rows of the union (:func:`nullclass.metrics.rates.summarise`)."""

    clean: pd.DataFrame = field(repr=False)
    """Clean rows of the images that every attack was run on, by image."""
    attacked: pd.DataFrame = field(repr=False)
    """Rows of these images under all attacks, at all budgets."""

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
    clean = rows[rows["attack"] == CLEAN]
    images = attacked_by_all(clean, with_given_eps(rows))
    is_attacked = (rows["attack"] != CLEAN) & rows["image"].isin(images)
    return WorstCaseTable(clean.set_index("image").loc[images], rows[is_attacked])


def strongest(rows: pd.DataFrame) -> str | None:
    """The attack to show where there is room for one: null-aware first, then most fooled."""
    attacked = with_given_eps(rows)
    counts = (attacked["outcome"] == "fooled").groupby(attacked["attack"]).sum()
    names = map(str, counts.index)
    return max(names, key=lambda name: (name in NULL_AWARE, counts[name]), default=None)


def subsample(items: Sequence[Item], num: int) -> list[Item]:
    """At most ``num`` items: the first, the last and evenly spaced ones between."""
    indices = np.linspace(0, len(items) - 1, min(num, len(items))).round().astype(int)
    return [items[index] for index in indices]
