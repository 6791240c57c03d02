"""Loads the classifier of a member."""

from __future__ import annotations

import torch

from nullclass.certify import proof_dtype
from nullclass.core.errors import UserError
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull
from nullclass.training.checkpoint import load_checkpoint
from nullclass.zoo.members import Member


def load_member(
    member: Member, device: torch.device | str = "cpu", verifier: str = "interval"
) -> Classifier:
    """Load the classifier of a member in evaluation mode.

    On a GPU a :class:`~nullclass.rejection.provable.ProvableNull` computes in float64. ``verifier``
    is what proves its answers; the rates in ``results.csv`` are those with interval bounds.

    Raises:
        UserError: If its files are missing, damaged or changed, or it cannot answer null.
    """
    model, _ = load_checkpoint(member.folder, device=device)
    radius = member.description.radius
    if radius is not None:
        model = model.to(proof_dtype(model.mean.device, model.mean.dtype))
        return ProvableNull(model, radius, verifier=verifier)
    if verifier != "interval":
        raise UserError(f"{member.name} has no radius within which a verifier proves its answers")
    if not model.has_null:
        raise UserError(f"{member.name} has neither a null class nor a radius: it never says null")
    return model
