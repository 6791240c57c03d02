"""A member's weights, as the classifier that is evaluated."""

from __future__ import annotations

import torch

from nullclass.certify import proof_dtype
from nullclass.core.errors import UserError
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull
from nullclass.training.checkpoint import load_checkpoint
from nullclass.zoo.entries import Entry


def load_entry(entry: Entry, device: torch.device | str = "cpu") -> Classifier:
    """The member as it answers, in evaluation mode; on a GPU what proves is in float64.

    Args:
        entry: The member.
        device: Where to put it.

    Raises:
        UserError: If its files are missing, damaged or changed, or it has no null.
    """
    model, _ = load_checkpoint(entry.folder, device=device)
    if entry.radius is not None:
        dtype = proof_dtype(model.mean.device, model.mean.dtype)
        return ProvableNull(model.to(dtype), entry.radius)
    if not model.has_null:
        raise UserError(
            f"{entry.name} has neither a null class nor a radius, so it can never say null: "
            "it does not belong into the zoo"
        )
    return model
