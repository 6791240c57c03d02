"""Scores images of no class. The correct answer is always null."""

from __future__ import annotations

import pandas as pd
from torch import Tensor

from nullclass.core.devices import BATCH_SIZE
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.results.schema import OOD_COLUMNS
from nullclass.scoring.rows import score_batch


def score_ood(
    model: Classifier, images: Tensor, name: str, *, batch_size: int | None = None
) -> pd.DataFrame:
    """Score images of no class.

    Args:
        model: The model; its mode and gradients are left as they are.
        images: ``(N, C, H, W)`` float32 in [0,1], on any device.
        name: Name of their source in the rows.
        batch_size: Images per forward pass.

    Returns:
        One row per image: :data:`nullclass.results.schema.OOD_COLUMNS`.

    Raises:
        UserError: If there are no images, or the logits are not finite.
    """
    if len(images) == 0:
        raise UserError(f"there are no images from {name} to score: give at least one")
    device = model.mean.device
    tables = [
        score_batch(model, batch.to(device), batch_size=batch_size)
        for batch in images.split(BATCH_SIZE)
    ]
    rows = pd.concat(tables, ignore_index=True)
    return rows.assign(source=name, image=range(len(rows)))[list(OOD_COLUMNS)]
