"""A checkpoint of a training -> a member of the zoo: rounded if need be, with its card.

>>> from nullclass.zoo.adopt import adopt
>>> adopt("runs/provable-null/models/…/last", "provable-0.3", stored="float16")  # doctest: +SKIP
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from nullclass.core.errors import UserError
from nullclass.models.quantize import Stored
from nullclass.training.checkpoint import CARD, WEIGHTS, load_checkpoint, save_checkpoint
from nullclass.zoo.about import About
from nullclass.zoo.entries import CHECKPOINTS, FOLDER, Entry, find_entry
from nullclass.zoo.members import MEMBERS

MAX_BYTES = 3_000_000
"""Of a member's weights."""

KEPT = ("training", "nulls", "training_seconds", "data", "data_checksum", "device", "epoch")
"""What a card keeps of the training's own card."""

MADE = ("versions", "commit", "machine")
"""What it keeps as ``trained_on``: a card's own say where it was written."""


def adopt(
    checkpoint: Path | str,
    name: str,
    *,
    stored: Stored = "exact",
    about: About | None = None,
    zoo: Path = FOLDER,
) -> Entry:
    """Take a checkpoint into the zoo; a former one of that name is replaced.

    Args:
        checkpoint: The folder of a training's checkpoint.
        name: Of the member.
        stored: How its weights are stored; if rounded, the rounded network is the member.
        about: What its card tells; that of :data:`nullclass.zoo.members.MEMBERS` unless given.
        zoo: The folder of the zoo.

    Raises:
        UserError: If nobody says what it is, or its weights are too large.
    """
    about = MEMBERS.get(name) if about is None else about
    if about is None:
        raise UserError(f"nobody says what {name!r} is: add it to MEMBERS, or give about=")
    model, card = load_checkpoint(checkpoint)
    told = {key: card[key] for key in KEPT if key in card}
    told["trained_on"] = {key: card.get(key) for key in MADE}
    if stored != "exact":
        told["rounding"] = (
            f"The trained weights were rounded once, to {stored}. The rounded network is the one "
            "that is loaded, attacked and proved; it computes in float32."
        )
    told["zoo"] = asdict(about) | {"eps": list(about.eps)}
    # Beside the old one, so that what is too large leaves the zoo as it was.
    beside = zoo / CHECKPOINTS / f".{name}"
    try:
        save_checkpoint(model, beside, about=told, stored=stored)
        size = (beside / WEIGHTS).stat().st_size
        if size >= MAX_BYTES:
            raise UserError(
                f"the weights of {name} take {size / 1e6:.2f} MB, and those of a member less "
                f"than {MAX_BYTES / 1e6:g}: store them as float16 or int8"
            )
        place = zoo / CHECKPOINTS / name
        place.mkdir(exist_ok=True)
        (place / CARD).unlink(missing_ok=True)
        (beside / WEIGHTS).replace(place / WEIGHTS)
        (beside / CARD).replace(place / CARD)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return find_entry(name, zoo)
