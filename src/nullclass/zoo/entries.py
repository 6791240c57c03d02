"""The members there are: a folder with a card each. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nullclass.core.errors import UserError
from nullclass.core.files import read_json
from nullclass.zoo.about import About
from nullclass.zoo.members import MEMBERS

FOLDER = Path(__file__).parent
"""The package's own zoo."""

CHECKPOINTS = "checkpoints"
"""Folder of a zoo: a checkpoint each, in a folder of its name."""

_CARD = "card.json"

ALL = "all"
"""Instead of a name: every member."""


@dataclass(frozen=True)
class Entry:
    """One member."""

    name: str
    zoo: Path = field(repr=False)
    """The folder of the whole zoo."""
    about: About = field(repr=False)
    card: dict[str, Any] = field(repr=False)

    @property
    def folder(self) -> Path:
        """Of its weights and card."""
        return self.zoo / CHECKPOINTS / self.name

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return self.about.title

    @property
    def radius(self) -> float | None:
        """Within which it proves its answers, in pixel units; None if it does not."""
        return self.about.radius

    @property
    def eps(self) -> tuple[float, ...]:
        """Budgets of the leaderboard, in pixel units."""
        return self.about.eps

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return int(self.card["num_parameters"])

    @property
    def training_minutes(self) -> float | None:
        """How long its training took; None if nobody kept the time."""
        seconds = self.card.get("training_seconds")
        return None if seconds is None else float(seconds) / 60

    @property
    def num_cores(self) -> int | None:
        """Of the machine it was trained on."""
        cores = (self.card.get("trained_on") or {}).get("machine", {}).get("num_cores")
        return None if cores is None else int(cores)


def read_zoo(folder: Path = FOLDER) -> dict[str, Entry]:
    """The members of a zoo by name, in the order of :data:`nullclass.zoo.members.MEMBERS`.

    Raises:
        UserError: If a card is damaged or does not tell what a card of a zoo must.
    """
    names = [path.parent.name for path in sorted((folder / CHECKPOINTS).glob(f"[!.]*/{_CARD}"))]
    order = list(MEMBERS)
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    return {name: _read(folder, name) for name in names}


def _read(folder: Path, name: str) -> Entry:
    path = folder / CHECKPOINTS / name / _CARD
    card = read_json(path, "model card")
    try:
        about = About.from_card(card["zoo"])
        entry = Entry(name, folder, about, card)
        needed = card["weights_sha256"], entry.num_parameters
        _ = needed, entry.training_minutes, entry.num_cores  # refused now, not at the first use
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the card {path} is not one of a zoo: {error}") from None
    return entry


def find_entry(name: str, folder: Path = FOLDER) -> Entry:
    """The member of that name.

    Raises:
        UserError: If there is none.
    """
    return find_entries((name,), folder)[0]


def find_entries(names: Sequence[str], folder: Path = FOLDER) -> list[Entry]:
    """The members of those names; of ``all``, every one.

    Raises:
        UserError: If there is none of a name, or none at all.
    """
    if not names:
        raise UserError("name a model of the zoo, or all")
    if not folder.is_dir():
        raise UserError(f"there is no zoo {folder}: give a folder with {CHECKPOINTS}/NAME/{_CARD}")
    zoo = read_zoo(folder)
    if not zoo:
        raise UserError(
            f"the zoo {folder} has no members: {CHECKPOINTS}/NAME/{_CARD} is looked for"
        )
    found: dict[str, Entry] = {}
    for name in names:
        if name != ALL and name not in zoo:
            raise UserError(
                f"there is no model {name!r} in the zoo: choose one of {', '.join(zoo)}"
            )
        found |= zoo if name == ALL else {name: zoo[name]}
    return list(found.values())
