"""The members of a zoo and their cards. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nullclass.core.errors import UserError
from nullclass.core.files import read_json

FOLDER = Path(__file__).parent
"""The zoo of the package."""

CHECKPOINTS = "checkpoints"
"""Folder with one checkpoint per member."""

ALL = "all"
"""Stands for every member on the command line."""

_CARD = "card.json"


@dataclass(frozen=True)
class Card:
    """The description of a member: the part ``zoo`` of its ``card.json``."""

    order: int
    """Position in tables."""
    title: str
    recipe: str
    """How the model was trained."""
    claims: str
    """What the model claims, with the threat model."""
    limits: str
    """What it does not claim."""
    source: str
    """The paper."""
    eps: tuple[float, ...]
    """Budgets of the leaderboard, increasing, in pixel units (L∞)."""
    radius: float | None = None
    """The model answers only what interval bounds prove within this radius, in pixel units (L∞)."""
    licence: str = "MIT, as nullclass"

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: If one has the wrong type or range.
        """
        texts = (self.title, self.recipe, self.claims, self.limits, self.source, self.licence)
        if not all(isinstance(text, str) and text for text in texts):
            raise UserError("the texts of a card must be non-empty strings")
        if not self.eps or not all(map(_is_positive, self.eps)):
            raise UserError(f"a card's eps must be positive numbers, not {self.eps!r}")
        if list(self.eps) != sorted(set(self.eps)):
            raise UserError(f"a card's eps must increase, not {self.eps!r}")
        if self.radius is not None and not _is_positive(self.radius):
            raise UserError(f"a card's radius must be a positive number, not {self.radius!r}")


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0  # type: ignore[arg-type,operator]


@dataclass(frozen=True)
class Member:
    """One member of a zoo."""

    name: str
    zoo: Path = field(repr=False)
    """Folder of the zoo."""
    card: Card = field(repr=False)
    info: dict[str, Any] = field(repr=False)
    """All values of ``card.json``."""

    @property
    def folder(self) -> Path:
        """Folder of the weights and the card."""
        return self.zoo / CHECKPOINTS / self.name

    @property
    def weights_sha256(self) -> str:
        """Checksum of the weights file."""
        return str(self.info["weights_sha256"])

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return str(self.info["data"])

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases."""
        return int(self.info["num_parameters"])

    @property
    def training_minutes(self) -> float | None:
        """Duration of the training; None if unknown."""
        seconds = self.info.get("training_seconds")
        return None if seconds is None else float(seconds) / 60

    @property
    def num_cores(self) -> int | None:
        """Number of cores of the training's machine; None if unknown."""
        cores = (self.info.get("trained_on") or {}).get("machine", {}).get("num_cores")
        return None if cores is None else int(cores)


def read_zoo(folder: Path = FOLDER) -> dict[str, Member]:
    """Return the members of a zoo by name, in the order of their cards.

    Raises:
        UserError: If a card is damaged or incomplete.
    """
    cards = (folder / CHECKPOINTS).glob(f"[!.]*/{_CARD}")
    members = [_read_member(folder, path.parent.name) for path in cards]
    members.sort(key=lambda member: (member.card.order, member.name))
    return {member.name: member for member in members}


def _read_member(folder: Path, name: str) -> Member:
    path = folder / CHECKPOINTS / name / _CARD
    info = read_json(path, "model card")
    try:
        values = dict(info["zoo"])
        card = Card(**values | {"eps": tuple(values["eps"])})
        member = Member(name, folder, card, info)
        needed = ("weights_sha256", "data", "data_checksum")
        missing = [key for key in needed if not isinstance(info.get(key), str)]
        if missing:
            raise UserError(f"it has no {missing[0]!r}")
        _ = member.num_parameters, member.training_minutes, member.num_cores
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        expected = ", ".join(field.name for field in fields(Card))
        raise UserError(
            f"the card {path} is not one of a zoo: {error} (its part 'zoo' has {expected})"
        ) from None
    return member


def find_member(name: str, folder: Path = FOLDER) -> Member:
    """Return the member of that name.

    Raises:
        UserError: If there is no such member.
    """
    return find_members((name,), folder)[0]


def find_members(names: Sequence[str], folder: Path = FOLDER) -> list[Member]:
    """Return the members of those names; ``all`` stands for every member.

    Raises:
        UserError: If a name is unknown, no name is given, or the zoo has no members.
    """
    zoo = read_zoo(folder)
    if not zoo:
        raise UserError(f"the zoo {folder} has no members ({CHECKPOINTS}/NAME/{_CARD})")
    if not names:
        raise UserError("name a model of the zoo, or all")
    for name in names:
        if name != ALL and name not in zoo:
            raise UserError(f"no model {name!r} in the zoo: choose one of {', '.join(zoo)}")
    return list(zoo.values()) if ALL in names else [zoo[name] for name in dict.fromkeys(names)]
