"""The members of a zoo and their cards. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nullclass.core.errors import UserError
from nullclass.training.card import (
    CARD,
    Card,
    Description,
    ProvableRefusal,
    SmoothedRefusal,
    ThresholdRefusal,
    read_card,
)

FOLDER = Path(__file__).parent
"""The zoo of the package."""

CHECKPOINTS = "checkpoints"
"""Folder with one checkpoint per member."""

ALL = "all"
"""Stands for every member on the command line."""


@dataclass(frozen=True)
class Member:
    """One member of a zoo."""

    name: str
    zoo: Path = field(repr=False)
    """Folder of the zoo."""
    card: Card = field(repr=False)
    description: Description = field(repr=False)
    """The part ``zoo`` of the card."""
    data: str = field(repr=False)
    """Name of the dataset."""
    data_checksum: str = field(repr=False)

    @property
    def folder(self) -> Path:
        """Folder of the weights and the card."""
        return self.zoo / CHECKPOINTS / self.name

    @property
    def weights_sha256(self) -> str:
        """Checksum of the weights file."""
        return self.card.weights_sha256

    @property
    def null_by(self) -> str:
        """What decides on null, in words."""
        refusal = self.card.refusal
        if refusal is None:
            return "null class"
        if isinstance(refusal, ProvableRefusal):
            return f"proof within {refusal.radius:g} ({refusal.norm}, {refusal.verifier})"
        if isinstance(refusal, SmoothedRefusal):
            return f"smoothing within {refusal.radius:g} (l2)"
        if isinstance(refusal, ThresholdRefusal):
            return "calibrated threshold"
        rule, within = (refusal.settings.get(key) for key in ("name", "radius"))
        within = "" if within is None else f" within {within}"
        return f"{rule or refusal.detector}{within}"

    @property
    def verifier(self) -> str:
        """Verifier on the card; ``interval`` if there is none."""
        refusal = self.card.refusal
        return refusal.verifier if isinstance(refusal, ProvableRefusal) else "interval"

    @property
    def training_minutes(self) -> float | None:
        """Duration of the training; None if unknown."""
        seconds = self.card.origin.training_seconds
        return None if seconds is None else seconds / 60

    @property
    def num_cores(self) -> int | None:
        """Number of cores of the training's machine; None if unknown."""
        trained_on = self.card.origin.trained_on
        return None if trained_on is None else trained_on.machine.num_cores


def read_zoo(folder: Path = FOLDER) -> dict[str, Member]:
    """Return the members of a zoo by name, in the order of their cards.

    Raises:
        UserError: If a card is damaged or incomplete.
    """
    cards = (folder / CHECKPOINTS).glob(f"[!.]*/{CARD}")
    members = [_read_member(folder, path.parent) for path in cards]
    members.sort(key=lambda member: (member.description.order, member.name))
    return {member.name: member for member in members}


def _read_member(zoo: Path, folder: Path) -> Member:
    card = read_card(folder)
    data, checksum = card.origin.data, card.origin.data_checksum
    if card.zoo is None or data is None or checksum is None:
        raise UserError(
            f"the card {folder / CARD} is not one of a zoo: it has no description, or does not "
            "name its data"
        )
    return Member(folder.name, zoo, card, card.zoo, data, checksum)


def find_member(name: str, folder: Path = FOLDER) -> Member:
    """Return the member of that name.

    Raises:
        UserError: If there is no such member.
    """
    if name == ALL:
        raise UserError(f"{ALL!r} means every model of the zoo: name one")
    return find_members((name,), folder)[0]


def find_members(names: Sequence[str], folder: Path = FOLDER) -> list[Member]:
    """Return the members of those names; ``all`` stands for every member.

    Raises:
        UserError: If a name is unknown, no name is given, or the zoo has no members.
    """
    zoo = read_zoo(folder)
    if not zoo:
        raise UserError(f"the zoo {folder} has no members ({CHECKPOINTS}/NAME/{CARD})")
    if not names:
        raise UserError("name a model of the zoo, or all")
    for name in names:
        if name != ALL and name not in zoo:
            raise UserError(f"no model {name!r} in the zoo: choose one of {', '.join(zoo)}")
    return list(zoo.values()) if ALL in names else [zoo[name] for name in dict.fromkeys(names)]
