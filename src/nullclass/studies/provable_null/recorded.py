"""Models of the zoo that a run did not train, as the zoo recorded them. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nullclass.core.errors import UserError
from nullclass.results.store import Run
from nullclass.zoo import FOLDER, Member, read_zoo
from nullclass.zoo.results import ATTACK, CLEAN, PROOF, read_results


@dataclass(frozen=True)
class Recorded:
    """RAR of one model by eps."""

    name: str
    clean: float
    """Share of clean images answered rightly; NaN if it is not told."""
    proved: list[tuple[float, float]]
    """Eps and what is proved of RAR, rising; empty if nothing was."""
    attacked: list[tuple[float, float]]
    """Eps and what attacks left of RAR, rising."""


def recorded(run: Run, known: Collection[str], folder: Path = FOLDER) -> list[Recorded]:
    """The zoo's other models of the run's data, those without rows of their weights left out.

    Args:
        run: The run.
        known: Models that the run has itself.
        folder: The zoo.
    """
    data = run.info.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    try:
        members = read_zoo(folder).values()
    except UserError:  # a damaged zoo is no reason not to see one's own run
        return []
    others = [one for one in members if one.name not in known and one.dataset == name]
    found = [_read(entry) for entry in others]
    return [one for one in found if one is not None and (one.proved or one.attacked)]


def _read(entry: Member) -> Recorded | None:
    try:
        rows = read_results(entry)
    except UserError:  # changed by hand, or of other weights: nullclass zoo check says which
        return None
    clean = rows[(rows["kind"] == CLEAN) & (rows["metric"] == "correct_rate")]["rate"]
    return Recorded(
        entry.name,
        math.nan if clean.empty else float(clean.iloc[0]),
        _line(rows, PROOF, "rar_proved"),
        _line(rows, ATTACK, "rar"),
    )


def _line(rows: pd.DataFrame, kind: str, metric: str) -> list[tuple[float, float]]:
    """Eps and value, rising."""
    of = rows[(rows["kind"] == kind) & (rows["metric"] == metric)]
    of = of.sort_values(["eps_pixels", "num_images"]).drop_duplicates("eps_pixels", keep="last")
    return list(zip(of["eps_pixels"].tolist(), of["rate"].tolist(), strict=True))
