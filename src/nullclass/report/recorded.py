"""Models of the zoo that a run did not train, as the zoo recorded them. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import nullclass
from nullclass.records import Run, read_frame

RESULTS = Path(nullclass.__file__).parent / "zoo" / "results"
"""The zoo's rates, a file a model."""

DATASET = "mnist"
"""What the zoo's models were trained and evaluated on."""

COLUMNS = {
    "kind": "str",  # clean, attack or proof, among others
    "norm": "str",
    "eps_pixels": "float64",
    "metric": "str",
    "value": "float64",
}
"""What is read of :data:`nullclass.zoo.results.RESULT_COLUMNS`."""


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


def recorded(run: Run, known: Collection[str], folder: Path = RESULTS) -> list[Recorded]:
    """The zoo's other models; none where the run is about other data than the zoo.

    Args:
        run: The run.
        known: Models that the run has itself.
        folder: The zoo's results.
    """
    data = run.info.get("data")
    if not isinstance(data, dict) or data.get("name") != DATASET:
        return []
    paths = [path for path in sorted(folder.glob("*.csv")) if path.stem not in known]
    found = (_read(path) for path in paths)
    return [one for one in found if one.proved or one.attacked]


def _read(path: Path) -> Recorded:
    table = read_frame(path, COLUMNS)
    clean = table[(table["kind"] == "clean") & (table["metric"] == "correct")]["value"]
    return Recorded(
        path.stem,
        math.nan if clean.empty else float(clean.iloc[0]),
        _line(table, "proof", "rar_proved", max),
        _line(table, "attack", "rar", min),
    )


def _line(
    table: pd.DataFrame, kind: str, metric: str, best: Callable[[list[float]], float]
) -> list[tuple[float, float]]:
    """Eps and value, rising; of several verifiers or attacks the one that tells most."""
    of = table[(table["kind"] == kind) & (table["metric"] == metric) & (table["norm"] == "linf")]
    return [
        (float(str(eps)), best(group["value"].tolist())) for eps, group in of.groupby("eps_pixels")
    ]
