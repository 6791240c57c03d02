"""The rates of all members: ``results.csv`` of a zoo, one rate per row. Imports no torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pandas as pd
from msgspec import Meta

from nullclass.core.documents import Schema, Sha256
from nullclass.core.errors import UserError
from nullclass.core.tables import read_rows
from nullclass.metrics.rates import PROVED, wilson
from nullclass.results.frames import write_frame
from nullclass.training.card import Count, Share
from nullclass.zoo.members import FOLDER, Member

RESULTS = "results.csv"

CLEAN, PROOF, ATTACK = "clean", "proof", "attack"

METRICS: dict[str, tuple[str, ...]] = {
    CLEAN: ("correct_rate", "null_rate", "fooled_rate"),
    PROOF: tuple(PROVED),
    ATTACK: ("aer", "rar", "strict", "null_dos"),
}
"""Metrics of each kind of row. A metric has one row per member, eps and number of images."""


NO_VERSION = "-"

ATTACK_TOLERANCE = 0.005
"""How far a repeated attack may deviate, as a share of the images: devices round differently, and
an attack follows the rounded gradients. Clean rates and proofs must agree to the image."""

_KEY = ["member", "kind", "eps_pixels", "num_images", "metric"]

_TINY = 1e-6
"""The file has seven digits of a rate."""


class _Row(Schema, frozen=True, kw_only=True):
    """A row of ``results.csv``."""

    member: str
    kind: Literal["clean", "proof", "attack"]
    method: str
    """Attacks joined by `` + ``, or the verifier, or ``clean``."""
    version: str
    """Of the attacks; ``-`` if they have none."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    """Of the attacks' random starts."""
    computed_on: str
    """Device, precision, and what else is special."""
    eps_pixels: Share
    """L∞; 0 for clean images."""
    metric: str
    num_hits: Count
    """Images that count."""
    num_images: Annotated[int, Meta(ge=1, le=2**53)]
    """The first images of the test set."""
    rate: Share
    low: Share
    """95 % Wilson interval."""
    high: Share
    weights_sha256: Sha256

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.metric not in METRICS[self.kind]:
            raise ValueError(f"{self.metric!r} is no metric of the kind {self.kind}")
        if abs(self.rate - self.num_hits / self.num_images) > _TINY:
            raise ValueError("the rate is not num_hits / num_images")
        if not self.low - _TINY <= self.rate <= self.high + _TINY:
            raise ValueError("the rate is outside its interval")


RESULT_COLUMNS = list(_Row.__struct_fields__)
"""Columns of ``results.csv``."""


def result_rows(
    member: Member,
    kind: str,
    hits: dict[str, int],
    num_images: int,
    *,
    method: str,
    eps: float = 0.0,
    version: str = NO_VERSION,
    seed: int = 0,
    computed_on: str = "CPU, float64",
) -> pd.DataFrame:
    """Return one row per metric.

    Args:
        member: The member.
        kind: A key of :data:`METRICS`.
        hits: Number of images that count, by metric.
        num_images: Number of images measured.
        method: As in ``results.csv``, like the remaining arguments.
        eps: The budget in pixel units.
        version: Of the attacks.
        seed: Of the attacks.
        computed_on: Device and precision.
    """
    rows = []
    for metric, num_hits in hits.items():
        low, high = wilson(num_hits, num_images)
        values = (member.name, kind, method, version, seed, computed_on, float(eps), metric)
        rate = num_hits / num_images
        rows.append((*values, num_hits, num_images, rate, low, high, member.weights_sha256))
    return pd.DataFrame(rows, columns=RESULT_COLUMNS)


def read_results(member: Member) -> pd.DataFrame:
    """Return the rows of a member; none if it was never evaluated.

    Raises:
        UserError: If the file is damaged, or its rows were measured with other weights.
    """
    path = member.zoo / RESULTS
    rows = _read(path)
    rows = rows[rows["member"] == member.name].reset_index(drop=True)
    if (rows["weights_sha256"] != member.weights_sha256).any():
        raise UserError(
            f"{path} has results of {member.name} for other weights: run nullclass zoo evaluate "
            f"{member.name} --update"
        )
    return rows


def _read(path: Path) -> pd.DataFrame:
    rows = read_rows(path, _Row, "table of rates") if path.exists() else []
    table = pd.DataFrame(map(msgspec.structs.astuple, rows), columns=RESULT_COLUMNS)
    if table.duplicated(_KEY).any():
        raise UserError(f"the table of rates {path} has two rows of the same rate")
    return table


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Write rows in a fixed order: by member, kind, eps, number of images and metric."""
    kinds, metrics = list(METRICS), [metric for names in METRICS.values() for metric in names]
    order = {"kind": kinds.index, "metric": metrics.index}
    rows = rows.sort_values(
        _KEY, key=lambda column: column.map(order.get(str(column.name), lambda value: value))
    )
    write_frame(path, rows)


def update_results(zoo: Path, rows: pd.DataFrame) -> Path:
    """Write rows into a zoo's ``results.csv``.

    A new row replaces the row of the same metric, eps and number of images. Of the rates of an
    attack only that of most images is kept. Rows of the same members for other weights are removed.

    Returns:
        The file.
    """
    path = zoo / RESULTS
    weights = dict(zip(rows["member"], rows["weights_sha256"], strict=True))
    old = _read(path)
    old = old[old["weights_sha256"] == old["member"].map(weights).fillna(old["weights_sha256"])]
    both = pd.concat([old, rows[RESULT_COLUMNS]]) if len(old) else rows
    both = both.drop_duplicates(_KEY, keep="last")
    most = both.groupby([name for name in _KEY if name != "num_images"])["num_images"]
    write_rows(path, both[(both["kind"] != ATTACK) | (both["num_images"] == most.transform("max"))])
    return path


def check_updatable(zoo: Path) -> None:
    """Refuse to update the results of an installed package.

    Raises:
        UserError: If the zoo is the package's and the package is not in a checkout.
    """
    if zoo == FOLDER and not (FOLDER.parents[2] / "pyproject.toml").exists():
        raise UserError("--update changes the package: run it in a checkout, or pass --zoo")


def find_rate(
    rows: pd.DataFrame, kind: str, metric: str, eps: float = 0.0, num_images: int | None = None
) -> dict[Hashable, Any] | None:
    """Return the row of a rate, that of most images by default; None if there is none."""
    found = rows[(rows["kind"] == kind) & (rows["metric"] == metric) & (rows["eps_pixels"] == eps)]
    if num_images is not None:
        found = found[found["num_images"] == num_images]
    return None if found.empty else found.sort_values("num_images").to_dict("records")[-1]


def budgets(rows: pd.DataFrame) -> list[float]:
    """Return the eps of attacks and proofs, increasing."""
    return sorted(set(rows.loc[rows["kind"] != CLEAN, "eps_pixels"]))


def join(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return several tables of rows as one."""
    return pd.concat([table for table in tables if len(table)], ignore_index=True)
