"""The robustness distribution: per image, the eps of an attack and of a proof. Imports no torch."""

from __future__ import annotations

import math

import pandas as pd

from nullclass.results.schema import NO_MEMBER, SMALLEST

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Shares of the images in the table of a distribution."""


def robustness_distribution(rows: pd.DataFrame, proved_eps: pd.DataFrame) -> pd.DataFrame:
    """Return the eps between which each image becomes unsafe.

    Args:
        rows: :data:`nullclass.results.schema.ROW_COLUMNS`, with the search for the smallest eps.
        proved_eps: :data:`nullclass.results.schema.CERTIFIED_COLUMNS`, one row per image; may be
            empty.

    Returns:
        By image: ``label``; ``fooled_at``, the smallest eps that fooled it, infinite if none did;
        ``proved_to``, the largest eps within which nothing can fool it, minus infinity if nothing
        is proved; ``is_broken``, whether an attack fooled it where that is proved to be impossible.
    """
    found = rows[rows["attack"] == SMALLEST].set_index("image").sort_index()
    never = proved_eps["is_never_fooled"].astype(bool)
    proved = proved_eps["eps_pixels"].astype(float).where(never, -math.inf)
    proved_to = proved.set_axis(proved_eps["image"]).reindex(found.index, fill_value=-math.inf)
    fooled_at = found["eps_pixels"].where(found["member"] != NO_MEMBER, math.inf)
    return pd.DataFrame(
        {
            "label": found["label"],
            "fooled_at": fooled_at,
            "proved_to": proved_to,
            "is_broken": fooled_at <= proved_to,
        }
    )


def quantile(sizes: pd.Series[float], share: float) -> float:
    """Return the smallest eps that at least this share of the images do not exceed."""
    return float(sizes.sort_values().iloc[max(math.ceil(share * len(sizes)), 1) - 1])
