"""Whether what is written of a member is so: measured anew, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from nullclass.core.errors import UserError
from nullclass.data import Dataset
from nullclass.scoring.rows import OnImages
from nullclass.training.checkpoint import load_checkpoint
from nullclass.zoo.entries import Entry
from nullclass.zoo.evaluating import JOIN, attack_lines, clean_lines, proof_lines
from nullclass.zoo.results import (
    ATTACK,
    ATTACK_TOLERANCE,
    BRACKET,
    CLEAN,
    PROOF,
    Cell,
    cells_of,
    read_results,
)

WEIGHTS = "weights"
"""The name, beside the cells', of the weights themselves."""


@dataclass(frozen=True)
class Checked:
    """What became of one cell."""

    member: str
    cell: str
    reason: str
    """Why it does not hold; empty if it does."""
    found: str
    """What was found, in a few words."""

    @property
    def holds(self) -> bool:
        """Whether what is written is so."""
        return not self.reason


LoadData = Callable[[Entry], Dataset]
"""From a member to its data."""


def check_entry(
    entry: Entry,
    load_data: LoadData,
    *,
    cells: Sequence[str] = (),
    attacks_again: bool = False,
    device: torch.device | str = "cpu",
    on_images: OnImages | None = None,
) -> Iterator[Checked]:
    """Measure a member's cells anew, from its weights alone.

    Args:
        entry: The member.
        load_data: Asked for its data once the weights are sound.
        cells: Names of cells, such as ``clean``, ``proof@0.3``, ``attack@0.3`` or ``weights``; all
            but the attacks unless given.
        attacks_again: Whether the attacks are made again too.
        device: Where to attack.
        on_images: Progress of what takes long.

    Yields:
        What became of each cell, as soon as it is known.

    Raises:
        UserError: If there is no cell of a name, or the data cannot be loaded.
    """
    try:
        model, card = load_checkpoint(entry.folder)
        told = f"{sum(p.numel() for p in model.parameters()):,} parameters"
        if int(card["num_parameters"]) != sum(p.numel() for p in model.parameters()):
            raise UserError(f"the card of {entry.name} counts other parameters than {told}")
        rows = read_results(entry)
    except UserError as error:
        yield Checked(entry.name, WEIGHTS, str(error), "")
        return
    known = {cell.name: cell for cell in cells_of(rows)}
    unknown = [name for name in cells if name not in (WEIGHTS, *known)]
    if unknown:
        raise UserError(
            f"{entry.name} has no cell {unknown[0]!r}: choose one of {', '.join((WEIGHTS, *known))}"
        )
    if not cells or WEIGHTS in cells:
        yield Checked(entry.name, WEIGHTS, "", f"{told}, SHA-256 {card['weights_sha256'][:12]}…")
    wanted = [known[name] for name in known if name in cells]
    if not cells:
        wanted = [cell for cell in known.values() if attacks_again or cell.kind != ATTACK]
    if not wanted:
        return
    dataset = load_data(entry)
    other = rows.loc[rows["data_checksum"] != dataset.checksum, "data_checksum"]
    if len(other):
        reason = f"the rows are of other data (checksum {other.iloc[0][:12]}…)"
        for cell in wanted:
            yield Checked(entry.name, cell.name, reason, "")
        return
    for cell in wanted:
        yield _check(entry, cell, rows, dataset, device, on_images)


def _check(
    entry: Entry,
    cell: Cell,
    rows: pd.DataFrame,
    dataset: Dataset,
    device: torch.device | str,
    on_images: OnImages | None,
) -> Checked:
    told = cell.of(rows)
    first = told[told["kind"] == cell.kind].iloc[0]
    if cell.kind == CLEAN:
        found = clean_lines(entry, dataset)
    elif cell.kind == PROOF:
        found = proof_lines(entry, dataset, [cell.eps_pixels], str(first["by"]), on_images)
    else:
        found = _attacked_again(entry, cell, rows, dataset, device, on_images)
    version = found.loc[found["kind"] == cell.kind, "version"].iloc[0]
    if version != first["version"]:
        reason = f"version {first['version']} of {first['by']} is written, here is {version}"
        return Checked(entry.name, cell.name, reason, "")
    keys = ["kind", "metric"]
    both = told.merge(found, on=keys, how="left", suffixes=("", "_found"))
    shown = []
    for row in both.to_dict("records"):
        now, before, num = row["num_hits_found"], row["num_hits"], row["num_images"]
        what = f"{row['metric']} {before} of {num}"
        if pd.isna(now) or row["num_images_found"] != num:
            return Checked(entry.name, cell.name, f"{what} written, but not measured anew", "")
        allowed = ATTACK_TOLERANCE * num if row["kind"] == ATTACK else 0
        if abs(now - before) > allowed or (row["metric"] == "broken" and now):
            return Checked(entry.name, cell.name, f"{what} written, {int(now)} found", "")
        if row["kind"] != BRACKET:
            shown.append(f"{row['metric']} {100 * now / num:.2f} %")
    return Checked(entry.name, cell.name, "", f"{', '.join(shown)}, n = {first['num_images']:,}")


def _attacked_again(
    entry: Entry,
    cell: Cell,
    rows: pd.DataFrame,
    dataset: Dataset,
    device: torch.device | str,
    on_images: OnImages | None,
) -> pd.DataFrame:
    """As it was: at the smaller budgets too, since what they found counts here."""
    told = cell.of(rows)
    first = told[told["kind"] == ATTACK].iloc[0]
    verifiers = told.loc[told["kind"] == BRACKET, "by"]
    alike = rows[rows["kind"] == ATTACK]
    for column in ("by", "seed", "num_images"):
        alike = alike[alike[column] == first[column]]
    eps = sorted(set(alike.loc[alike["eps_pixels"] <= cell.eps_pixels, "eps_pixels"]))
    found, _ = attack_lines(
        entry,
        dataset,
        eps,
        attacks=str(first["by"]).split(JOIN),
        num_images=int(first["num_images"]),
        verifier=None if verifiers.empty else str(verifiers.iloc[0]),
        seed=int(first["seed"]),
        device=device,
        on_images=on_images,
    )
    return cell.of(found)
