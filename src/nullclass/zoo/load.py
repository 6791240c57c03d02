"""Loads the classifier of a member."""

from __future__ import annotations

import torch

from nullclass.core.errors import UserError
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull, with_proof
from nullclass.training.checkpoint import load_checkpoint
from nullclass.zoo.members import Member


def load_member(
    member: Member, device: torch.device | str = "cpu", verifier: str | None = None
) -> Classifier:
    """Load the classifier of a member in evaluation mode.

    ``verifier`` proves the answers of a :class:`~nullclass.rejection.ProvableNull`, instead of its
    own one.

    Raises:
        UserError: If its files are missing, damaged or changed, or it cannot answer null.
    """
    model, _ = load_checkpoint(member.folder, device=device)
    if not model.has_null:
        raise UserError(f"{member.name} never says null: it has no null class, and refuses nothing")
    if verifier is None:
        return model
    if not isinstance(model, ProvableNull):
        raise UserError(f"{member.name} has no radius within which a verifier proves its answers")
    return with_proof(model, verifier=verifier)
