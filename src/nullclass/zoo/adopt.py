"""Takes the checkpoint of a training into a zoo.

>>> from nullclass.zoo.adopt import adopt
>>> adopt("runs/provable-null/models/…/last", "provable-0.3", description)  # doctest: +SKIP
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from msgspec.structs import replace

from nullclass.core.errors import UserError
from nullclass.core.paths import inside
from nullclass.models.quantize import Stored
from nullclass.training.card import Description, origin_of
from nullclass.training.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from nullclass.zoo.load import load_member
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
        UserError: If the weights are too large, the name is not one of a folder, or the checkpoint
            cannot be loaded as a member. The zoo then stays as it was.
    """
    target = inside(zoo / CHECKPOINTS, name)
    model, card = load_checkpoint(checkpoint)
    rounding = None if stored == "exact" else ROUNDING.format(stored)
    origin = replace(origin_of(card), rounding=rounding)
    with tempfile.TemporaryDirectory() as folder:
        trial = inside(Path(folder) / CHECKPOINTS, name)
        save_checkpoint(model, trial, stored=stored, origin=origin, zoo=description)
        size = (trial / WEIGHTS).stat().st_size
        try:
            load_member(find_member(name, Path(folder)))
        except UserError as error:
            raise UserError(f"{checkpoint} cannot be a member of a zoo: {error}") from None
    if size >= MAX_BYTES:
        raise UserError(
            f"the weights of {name} take {size / 1e6:.2f} MB, the limit is "
            f"{MAX_BYTES / 1e6:g} MB: store them as float16 or int8"
        )
    save_checkpoint(model, target, stored=stored, origin=origin, zoo=description)
    return find_member(name, zoo)
