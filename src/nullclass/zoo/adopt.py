"""Takes the checkpoint of a training into a zoo.

>>> from nullclass.zoo.adopt import adopt
>>> adopt("runs/provable-null/models/…/last", "provable-0.3", description)  # doctest: +SKIP
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from nullclass.core.errors import UserError
from nullclass.core.paths import inside
from nullclass.models.quantize import Stored
from nullclass.training.card import Description
from nullclass.training.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from nullclass.zoo.members import CHECKPOINTS, FOLDER, Member, find_member

MAX_BYTES = 3_000_000
"""Upper limit of the size of a member's weights."""

ROUNDING = (
    "The weights were rounded to {} after training. The rounded network is loaded, attacked and "
    "verified; it computes in float32."
)


def adopt(
    checkpoint: Path | str,
    name: str,
    description: Description,
    *,
    stored: Stored = "exact",
    zoo: Path = FOLDER,
) -> Member:
    """Take a checkpoint into a zoo; it replaces an earlier member of that name.

    Args:
        checkpoint: Folder of the checkpoint.
        name: Name of the member.
        description: Description of the member.
        stored: How the weights are stored. If rounded, the rounded network is the member.
        zoo: Folder of the zoo.

    Raises:
        UserError: If the weights are too large, or the name is not one of a folder.
    """
    model, card = load_checkpoint(checkpoint)
    rounding = None if stored == "exact" else ROUNDING.format(stored)
    origin = replace(card.origin, trained_on=card.provenance, rounding=rounding)
    save = partial(save_checkpoint, model, stored=stored, origin=origin, zoo=description)
    with tempfile.TemporaryDirectory() as trial:
        save(trial)
        size = (Path(trial) / WEIGHTS).stat().st_size
    if size >= MAX_BYTES:
        raise UserError(
            f"the weights of {name} take {size / 1e6:.2f} MB, the limit is "
            f"{MAX_BYTES / 1e6:g} MB: store them as float16 or int8"
        )
    save(inside(zoo / CHECKPOINTS, name))
    return find_member(name, zoo)
