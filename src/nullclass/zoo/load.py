"""Loads the classifier of a member."""

from __future__ import annotations

import torch

from nullclass.certify import proof_dtype
from nullclass.core.errors import UserError
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull
from nullclass.training.checkpoint import load_checkpoint
from nullclass.zoo.members import Member


def load_member(member: Member, device: torch.device | str = "cpu") -> Classifier:
    """Load the classifier of a member in evaluation mode.

    On a GPU a :class:`~nullclass.rejection.provable.ProvableNull` computes in float64.

    Raises:
        UserError: If its files are missing, damaged or changed, or it cannot answer null.
    """
    model, _ = load_checkpoint(member.folder, device=device)
    radius = member.description.radius
    if radius is not None:
        return ProvableNull(model.to(proof_dtype(model.mean.device, model.mean.dtype)), radius)
    if not model.has_null:
        raise UserError(f"{member.name} has neither a null class nor a radius: it never says null")
    return model
