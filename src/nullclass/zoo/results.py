"""What is known of each member: rates, one a line, in ``results/NAME.csv`` of the zoo. No torch.

A *cell* is what one command measures anew: the clean triple, what an attack left at one eps, what
is proved at one eps. Its lines stand and fall together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.metrics.rates import PROVED, wilson
from nullclass.results.frames import read_frame, write_frame
from nullclass.zoo.entries import Entry

RESULTS = "results"
"""Folder of a zoo: a CSV a member."""

RESULT_COLUMNS = {
    "member": "str",
    "kind": "str",  # clean, attack, proof, or bracket: proof and attack on the same images
    "by": "str",  # attacks joined by " + ", or the verifier; "none" for clean images
    "version": "str",  # of the attacks; "none" if they have none
    "seed": "int64",  # of the attacks' random starts
    "norm": "str",
    "eps_pixels": "float64",
    "metric": "str",
    "num_hits": "int64",  # images of which it is so
    "num_images": "int64",  # the first of the test set
    "value": "float64",  # a share in [0,1]
    "low": "float64",  # 95 % Wilson interval
    "high": "float64",
    "weights_sha256": "str",  # of the weights file
    "data_checksum": "str",
}
"""Columns of ``results/NAME.csv`` and their types."""

CLEAN, ATTACK, PROOF, BRACKET = "clean", "attack", "proof", "bracket"

METRICS: dict[str, tuple[str, ...]] = {
    CLEAN: OUTCOME_NAMES,
    PROOF: tuple(PROVED),
    ATTACK: ("aer", "rar", "strict", "null_dos"),
    BRACKET: (*PROVED, "broken"),
}
"""Kinds of lines in their order, and the metrics of each. ``broken`` counts the images of which an
attack did what is proved to be impossible."""

ATTACK_TOLERANCE = 0.005
"""How far an attack made anew may come out elsewhere, as a share of the images: other processors
round otherwise, and an attack climbs on what they round. What is clean or proved must be
the same."""

NONE = "none"
DIGITS = 7
"""Significant digits of shares in the file."""


@dataclass(frozen=True)
class Cell:
    """Lines that one command measures anew."""

    kind: str
    eps_pixels: float = 0.0

    @property
    def name(self) -> str:
        """As on the command line: ``clean``, ``attack@0.3``, ``proof@0.3``."""
        return self.kind if self.kind == CLEAN else f"{self.kind}@{self.eps_pixels:g}"

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Its lines; those of an attack bring those of the bracket with them."""
        kinds = (ATTACK, BRACKET) if self.kind == ATTACK else (self.kind,)
        return rows[rows["kind"].isin(kinds) & (rows["eps_pixels"] == self.eps_pixels)]


def command(entry: Entry, cell: Cell) -> str:
    """The command that measures a cell anew and says whether it holds."""
    return f"nullclass zoo check {entry.name} --cell {cell.name}"


def cells_of(rows: pd.DataFrame) -> list[Cell]:
    """The cells that rows are of: clean, then proofs, then attacks, by eps."""
    told = {
        Cell(kind, eps)
        for kind, eps in zip(rows["kind"], rows["eps_pixels"], strict=True)
        if kind != BRACKET
    }
    order = list(METRICS)
    return sorted(told, key=lambda cell: (order.index(cell.kind), cell.eps_pixels))


def line(
    entry: Entry,
    kind: str,
    metric: str,
    hits: int,
    num_images: int,
    *,
    data_checksum: str,
    eps: float = 0.0,
    by: str = NONE,
    version: str = NONE,
    seed: int = 0,
    norm: str = "linf",
) -> dict[str, object]:
    """One line: a share of images, with its interval."""
    low, high = wilson(hits, num_images)
    return {
        "member": entry.name,
        "kind": kind,
        "by": by,
        "version": version,
        "seed": seed,
        "norm": norm,
        "eps_pixels": float(eps),
        "metric": metric,
        "num_hits": hits,
        "num_images": num_images,
        "value": hits / num_images,
        "low": low,
        "high": high,
        "weights_sha256": entry.card["weights_sha256"],
        "data_checksum": data_checksum,
    }


def place_of(entry: Entry) -> Path:
    """Where its lines are kept."""
    return entry.zoo / RESULTS / f"{entry.name}.csv"


def empty() -> pd.DataFrame:
    """No lines."""
    return pd.DataFrame(columns=list(RESULT_COLUMNS)).astype(RESULT_COLUMNS)


def read_results(entry: Entry) -> pd.DataFrame:
    """A member's lines; none if it was never evaluated.

    Raises:
        UserError: If the file is damaged, or a line does not fit itself or the member's weights.
    """
    path = place_of(entry)
    if not path.exists():
        return empty()
    rows = read_frame(path, RESULT_COLUMNS)[list(RESULT_COLUMNS)]
    for place, row in enumerate(rows.to_dict("records"), start=2):
        reason = _mistake(entry, row)
        if reason:
            raise UserError(
                f"line {place} of {path} {reason}: it was changed or is of other weights, so run "
                f"nullclass zoo evaluate {entry.name}"
            )
    if rows.duplicated(["kind", "eps_pixels", "metric"]).any():
        raise UserError(f"{path} holds one figure twice: remove it and evaluate again")
    for cell in cells_of(rows):
        lacking = _lacking(cell, cell.of(rows))
        if lacking:
            raise UserError(
                f"{path}: the cell {cell.name} {lacking}: it was changed, so run nullclass zoo "
                f"evaluate {entry.name}"
            )
    return rows


def _mistake(entry: Entry, row: Mapping[Hashable, Any]) -> str:
    """What is wrong with one line by itself."""
    kind, hits, num = str(row["kind"]), int(row["num_hits"]), int(row["num_images"])
    if row["member"] != entry.name or row["metric"] not in METRICS.get(kind, ()):
        return f"is of {row['member']!r}, {kind!r}, {row['metric']!r}, which is none of its figures"
    if row["weights_sha256"] != entry.card["weights_sha256"]:
        return "is of other weights than the member's (another SHA-256)"
    if num < 1 or not 0 <= hits <= num:
        return f"counts {hits} of {num} images"
    low, high = wilson(hits, num)
    for column, value in (("value", hits / num), ("low", low), ("high", high)):
        if not abs(row[column] - value) <= 10**-DIGITS:
            return (
                f"says {column} {row[column]}, but {hits} of {num} images make {value:.{DIGITS}g}"
            )
    return ""


def _lacking(cell: Cell, rows: pd.DataFrame) -> str:
    """What is wrong with the lines of a cell together."""
    for kind, lines in rows.groupby("kind", sort=False):
        hits = dict(zip(lines["metric"], lines["num_hits"], strict=True))
        if set(hits) != set(METRICS[str(kind)]) or lines["num_images"].nunique() != 1:
            return f"has no whole set of figures ({', '.join(METRICS[str(kind)])})"
        if kind == CLEAN and sum(hits.values()) != lines["num_images"].iloc[0]:
            return "has outcomes that do not sum to all images"
    return ""


def write_results(entry: Entry, rows: pd.DataFrame) -> Path:
    """Write a member's lines: new cells in place of old ones, the others kept.

    Lines of other weights than the member's are dropped.

    Args:
        entry: The member.
        rows: Whole cells (:data:`RESULT_COLUMNS`).

    Returns:
        The file.
    """
    path = place_of(entry)
    old = read_frame(path, RESULT_COLUMNS)[list(RESULT_COLUMNS)] if path.exists() else empty()
    old = old[old["weights_sha256"] == entry.card["weights_sha256"]]
    new = {(cell.kind, cell.eps_pixels) for cell in cells_of(rows)}
    told = zip(old["kind"].replace(BRACKET, ATTACK), old["eps_pixels"], strict=True)
    kept = old[[cell not in new for cell in told]]
    both = [table for table in (kept, rows[list(RESULT_COLUMNS)]) if len(table)]
    all_rows = in_order(pd.concat(both, ignore_index=True).astype(RESULT_COLUMNS))
    write_frame(path, all_rows, f"%.{DIGITS}g")
    return path


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Lines by kind, eps and metric, so that the same figures give the same file."""
    kinds, metrics = list(METRICS), [metric for names in METRICS.values() for metric in names]
    order = pd.DataFrame(
        {
            "kind": rows["kind"].map(kinds.index),
            "eps": rows["eps_pixels"],
            "metric": rows["metric"].map(metrics.index),
        }
    )
    return rows.loc[order.sort_values(["kind", "eps", "metric"]).index].reset_index(drop=True)


def figure(rows: pd.DataFrame, kind: str, eps: float, metric: str) -> dict[Hashable, Any] | None:
    """One line of a member, if there is one."""
    found = rows[(rows["kind"] == kind) & (rows["eps_pixels"] == eps) & (rows["metric"] == metric)]
    return None if found.empty else found.to_dict("records")[0]


def budgets(rows: pd.DataFrame) -> list[float]:
    """Eps of attacks and proofs, rising."""
    return sorted(set(rows.loc[rows["kind"] != CLEAN, "eps_pixels"]))


def as_frame(lines: Sequence[dict[str, object]] | Iterable[dict[str, object]]) -> pd.DataFrame:
    """Lines as a table."""
    return in_order(pd.DataFrame(list(lines), columns=list(RESULT_COLUMNS)).astype(RESULT_COLUMNS))
