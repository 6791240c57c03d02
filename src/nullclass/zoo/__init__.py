"""The zoo: small models with null, their cards, and what is known of each.

:data:`ZOO` lists them, :func:`load_zoo` loads one. Importing it does not load torch, and reads no
card: a damaged one is told of when :data:`ZOO` is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nullclass.zoo.entries import FOLDER, Entry, find_entry, read_zoo

if TYPE_CHECKING:
    import torch

    from nullclass.models import Classifier

__all__ = ["FOLDER", "ZOO", "Entry", "load_zoo"]

ZOO: dict[str, Entry]
"""The package's members by name, read whenever it is asked for."""


def __getattr__(name: str) -> dict[str, Entry]:
    if name == "ZOO":
        return read_zoo()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_zoo(name: str, device: torch.device | str = "cpu") -> Classifier:
    """A member of the zoo, in evaluation mode.

    Args:
        name: One of :data:`ZOO`.
        device: Where to put it.

    Returns:
        K + 1 logits, null last; a :class:`nullclass.rejection.provable.ProvableNull` where the
        entry
        has a radius.

    Raises:
        UserError: If there is no such member, or its files are missing, damaged or changed.
    """
    from nullclass.zoo.loading import load_entry

    return load_entry(find_entry(name), device)
