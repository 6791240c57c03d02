"""The model zoo: an open set of small checkpoints with a null class, and their leaderboard.

A member is a folder ``checkpoints/NAME`` with weights and a card; ``results.csv`` holds the rates
of all members. Importing this package does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nullclass.training.card import Description
from nullclass.zoo.members import FOLDER, Member, find_member, read_zoo

if TYPE_CHECKING:
    import torch

    from nullclass.models import Classifier

__all__ = ["FOLDER", "Description", "Member", "find_member", "load_zoo", "read_zoo"]


def load_zoo(name: str, device: torch.device | str = "cpu") -> Classifier:
    """Load a member of the zoo in evaluation mode.

    Args:
        name: Name of the member, as listed by ``nullclass zoo``.
        device: Device of the model.

    Returns:
        A classifier with K + 1 logits, null last, that refuses as the member's card says; a
        :class:`nullclass.ProvableNull` if it answers what is proved.

    Raises:
        UserError: If there is no such member, or its files are missing, damaged or changed.
    """
    from nullclass.zoo.load import load_member

    return load_member(find_member(name), device)
