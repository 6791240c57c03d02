"""Proofs held against what was seen: did an image ever do what was proved impossible?

One rule for red flags, reports and the zoo. What is proved of an image within eps is held to every
row of that image, in that norm, at that eps or below, clean ones included. One image is enough: a
proof has no exceptions. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from nullclass.results.schema import CLEAN

ROUNDING = 1e-9
"""Two budgets that differ by this are the same."""


@dataclass(frozen=True)
class Claim:
    """What a column of proofs promises."""

    column: str
    """Of :data:`nullclass.results.schema.CERTIFIED_COLUMNS`."""
    told: str
    """In words."""
    when_attacked: tuple[str, ...]
    """Outcomes of attacked images that break it."""
    when_clean: tuple[str, ...]
    """Outcomes of clean images that do."""


PROMISES = (
    Claim("is_never_fooled", "never fooled", ("fooled",), ("fooled",)),
    Claim("is_correct_proved", "always right", ("fooled", "null"), ("fooled", "null")),
    Claim("is_rar_proved", "right when clean and never fooled", ("fooled",), ("fooled", "null")),
)


@dataclass(frozen=True)
class ClaimCheck:
    """What came of holding proofs against rows."""

    num_rows: int
    """Rows of an image of which something had been proved at that eps or beyond."""
    num_images: dict[str, int]
    """By a promise in words: images of which it was proved at some eps."""
    broken: pd.DataFrame = field(repr=False)
    """The rows that break a promise, each once, by promise, image and eps; with ``proved``, the
    largest eps it was proved at, and ``what``, the promise in words."""


def hold(rows: pd.DataFrame, certified: pd.DataFrame) -> ClaimCheck:
    """Hold what is proved of a model against what its images did.

    Args:
        rows: Columns of :data:`nullclass.results.schema.ROW_COLUMNS`, of one model.
        certified: Columns of :data:`nullclass.results.schema.CERTIFIED_COLUMNS`, of the same model.
    """
    tables: list[pd.DataFrame] = []
    num_images: dict[str, int] = {}
    rows = rows.reset_index(drop=True)
    is_held = np.zeros(len(rows), dtype=bool)
    is_clean = (rows["attack"] == CLEAN).to_numpy()
    eps = rows["eps_pixels"].to_numpy(dtype=float)
    images = pd.MultiIndex.from_frame(rows[["norm", "image"]])
    for promise in PROMISES:
        proved = certified[certified[promise.column].astype(bool)]
        furthest = proved.groupby(["norm", "image"])["eps_pixels"].max()
        num_images[promise.told] = len(furthest)
        reach = furthest.reindex(images).to_numpy(dtype=float)  # NaN, so no promise, if unproved
        holds = eps <= reach + ROUNDING
        is_held |= holds
        is_bad = np.where(
            is_clean,
            rows["outcome"].isin(promise.when_clean),
            rows["outcome"].isin(promise.when_attacked),
        )
        breaks = holds & is_bad
        told = rows[breaks].assign(proved=reach[breaks], what=promise.told)
        tables.append(told.sort_values(["image", "eps_pixels"], kind="stable"))
    broken = pd.concat(tables)
    return ClaimCheck(int(is_held.sum()), num_images, broken[~broken.index.duplicated()])
