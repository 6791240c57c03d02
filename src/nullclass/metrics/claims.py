"""Checks proofs against outcomes: did an image do what is proved to be impossible?

A proof about an image within eps is checked against every row of that image in that norm, at that
eps or below, clean rows included; rows of images that were not attacked because they are proved say
nothing. One violation refutes a proof.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from nullclass.results.schema import CLEAN, LEFT_OUT

ROUNDING = 1e-9
"""Budgets that differ by this are equal."""


@dataclass(frozen=True)
class Claim:
    """What a column of proofs claims."""

    column: str
    """Of :data:`nullclass.results.schema.CERTIFIED_COLUMNS`."""
    description: str
    violated_by: tuple[str, ...]
    """Outcomes of adversarial images that violate it."""
    violated_when_clean_by: tuple[str, ...]
    """Outcomes of clean images that violate it."""


CLAIMS = (
    Claim("is_never_fooled", "never fooled", ("fooled",), ("fooled",)),
    Claim("is_correct_proved", "always correct", ("fooled", "null"), ("fooled", "null")),
    Claim(
        "is_rar_proved",
        "correct when clean and never fooled",
        ("fooled",),
        ("fooled", "null"),
    ),
)


@dataclass(frozen=True)
class ClaimCheck:
    """The result of :func:`find_violations`."""

    num_rows: int
    """Rows that a claim is about."""
    num_images: dict[str, int]
    """Number of images by the description of what is claimed about them, at some eps."""
    violations: pd.DataFrame = field(repr=False)
    """The rows that violate a claim, each once, by claim, image and eps. Column ``proved`` is the
    largest eps of the proof, ``claim`` the claim's description."""


def find_violations(rows: pd.DataFrame, certified: pd.DataFrame) -> ClaimCheck:
    """Find the rows of a model that contradict its proofs.

    Args:
        rows: Columns of :data:`nullclass.results.schema.ROW_COLUMNS`, of one model.
        certified: Columns of :data:`nullclass.results.schema.CERTIFIED_COLUMNS`, of the same model.
    """
    tables: list[pd.DataFrame] = []
    num_images: dict[str, int] = {}
    rows = rows[rows["member"] != LEFT_OUT].reset_index(drop=True)
    is_covered = np.zeros(len(rows), dtype=bool)
    is_clean = (rows["attack"] == CLEAN).to_numpy()
    eps = rows["eps_pixels"].to_numpy(dtype=float)
    images = pd.MultiIndex.from_frame(rows[["norm", "image"]])
    for claim in CLAIMS:
        proofs = certified[certified[claim.column].astype(bool)]
        largest = proofs.groupby(["norm", "image"])["eps_pixels"].max()
        num_images[claim.description] = len(largest)
        proved = largest.reindex(images).to_numpy(dtype=float)  # NaN without a proof
        covered = eps <= proved + ROUNDING
        is_covered |= covered
        is_bad = np.where(
            is_clean,
            rows["outcome"].isin(claim.violated_when_clean_by),
            rows["outcome"].isin(claim.violated_by),
        )
        found = covered & is_bad
        table = rows[found].assign(proved=proved[found], claim=claim.description)
        tables.append(table.sort_values(["image", "eps_pixels"], kind="stable"))
    violations = pd.concat(tables)
    violations = violations[~violations.index.duplicated()]
    return ClaimCheck(int(is_covered.sum()), num_images, violations)
