"""Where probability and answers go as images are perturbed more, and how near p_NULL stays to f."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.results.null_curve import NullCurve
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.defences import own_norm

PROBABILITIES = ("p_null", "rest", "p_label")
"""Shares of probability, which sum to 1: of null, of the wrong classes, of the true class."""

MEANS = (*PROBABILITIES, *OUTCOME_NAMES, "f")


def by_size(run: Run) -> pd.DataFrame:
    """Means over images.

    Returns:
        Columns model, seed, norm, perturbation, size (asked for), ``num_images``, those of
        :data:`PROBABILITIES`, correct, null and fooled, and ``f``: what the null curve of that
        norm and seed asks for, at the sizes that came out; NaN without a curve.
    """
    tables = []
    for trial in run.trials:
        for norm, rows in trial.sizes.groupby("norm", sort=False):
            curve = curve_of(run, str(norm), trial.seed)
            told = rows.assign(
                rest=(1 - rows["p_label"] - rows["p_null"]).clip(0, 1),
                f=math.nan if curve is None else curve(rows["actual_size"]),
                **{word: rows["outcome"] == word for word in OUTCOME_NAMES},
            )
            groups = told.groupby(["norm", "perturbation", "size"])
            table = groups[list(MEANS)].mean().assign(num_images=groups.size()).reset_index()
            tables.append(table.assign(model=trial.model, seed=trial.seed))
    columns = ["model", "seed", "norm", "perturbation", "size", "num_images", *MEANS]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)


def curve_of(run: Run, norm: str, seed: int) -> NullCurve | None:
    """The null curve that a seed's models were trained with."""
    of = (c.curve for c in run.curves if (c.curve.norm, c.seed) == (norm, seed))
    return next(of, None)


@dataclass(frozen=True)
class Following:
    """How one model's p_NULL follows its f, over the sizes it was trained on."""

    model: str
    norm: str
    seed: int
    distance: float
    """The largest of mean p_NULL from f."""
    size: float
    """Where that is."""
    fall: float
    """The largest by which mean p_NULL falls below what it was at a smaller size; 0 if it never
    does."""
    largest: float
    """End of the range."""
    num_sizes: int
    num_images: int


def followings(run: Run, means: pd.DataFrame) -> list[Following]:
    """One a model with NULL probabilities and seed; of those that have a curve.

    Args:
        run: The run.
        means: From :func:`by_size`.
    """
    found = []
    keys: Any
    for keys, table in means.groupby(["model", "seed", "norm"], sort=False):
        model, seed, norm = str(keys[0]), int(keys[1]), str(keys[2])
        curve = curve_of(run, norm, seed) if norm == own_norm(model) else None
        if curve is None:
            continue
        within = table[table["size"] <= curve.largest * (1 + 1e-6)].sort_values("size")
        if within.empty:
            continue
        p_null, away = within["p_null"].to_numpy(), (within["p_null"] - within["f"]).abs()
        place = int(away.to_numpy().argmax())
        found.append(
            Following(
                model=model,
                norm=norm,
                seed=seed,
                distance=float(away.iloc[place]),
                size=float(within["size"].iloc[place]),
                fall=float((np.maximum.accumulate(p_null) - p_null).max()),
                largest=curve.largest,
                num_sizes=len(within),
                num_images=int(within["num_images"].min()),
            )
        )
    return found
