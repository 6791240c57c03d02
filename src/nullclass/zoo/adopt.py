"""Takes the checkpoint of a training into a zoo.

>>> from nullclass.zoo.adopt import adopt
>>> adopt("runs/provable-null/models/…/last", "provable-0.3", card)  # doctest: +SKIP
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from nullclass.core.errors import UserError
from nullclass.models.quantize import Stored
from nullclass.training.checkpoint import CARD, WEIGHTS, load_checkpoint, save_checkpoint
from nullclass.zoo.members import CHECKPOINTS, FOLDER, Card, Member, find_member

MAX_BYTES = 3_000_000
"""Upper limit of the size of a member's weights."""

KEPT = ("training", "nulls", "training_seconds", "data", "data_checksum", "device", "epoch")
"""Values that are copied from the card of the training."""

ORIGIN = ("versions", "commit", "machine")
"""Values that are copied as ``trained_on``."""


def adopt(
    checkpoint: Path | str,
    name: str,
    card: Card,
    *,
    stored: Stored = "exact",
    zoo: Path = FOLDER,
) -> Member:
    """Take a checkpoint into a zoo; it replaces an earlier member of that name.

    Args:
        checkpoint: Folder of the checkpoint.
        name: Name of the member.
        card: Description of the member.
        stored: How the weights are stored. If rounded, the rounded network is the member.
        zoo: Folder of the zoo.

    Raises:
        UserError: If the weights are too large.
    """
    model, info = load_checkpoint(checkpoint)
    values = {key: info[key] for key in KEPT if key in info}
    values["trained_on"] = {key: info.get(key) for key in ORIGIN}
    if stored != "exact":
        values["rounding"] = (
            f"The weights were rounded to {stored} after training. The rounded network is loaded, "
            "attacked and verified; it computes in float32."
        )
    values["zoo"] = asdict(card)
    folder, temporary = zoo / CHECKPOINTS / name, zoo / CHECKPOINTS / f".{name}"
    try:
        save_checkpoint(model, temporary, metadata=values, stored=stored)
        size = (temporary / WEIGHTS).stat().st_size
        if size >= MAX_BYTES:
            raise UserError(
                f"the weights of {name} take {size / 1e6:.2f} MB, the limit is "
                f"{MAX_BYTES / 1e6:g} MB: store them as float16 or int8"
            )
        folder.mkdir(exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)
        (temporary / WEIGHTS).replace(folder / WEIGHTS)
        (temporary / CARD).replace(folder / CARD)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return find_member(name, zoo)
