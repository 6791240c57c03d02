"""Scores a model that answers only what it can prove, at other radii.

A larger radius r answers less, and proves more about each answer (up to eps = 2r). The share of
images answered correctly at r is the certified accuracy at r, a lower bound of RAR at 2r
(:mod:`nullclass.rejection.provable`). It takes one pass of bounds per radius.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from nullclass.core.devices import BATCH_SIZE
from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES, outcomes, predictions
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.rejection import ProvableNull
from nullclass.results.schema import RADIUS_COLUMNS
from nullclass.scoring.rows import OnImages, batch_of, ignore


@torch.no_grad()
def score_radii(
    model: Classifier,
    data: LabelledImages,
    radii: Sequence[float],
    *,
    on_images: OnImages = ignore,
) -> pd.DataFrame:
    """Score clean images at each radius.

    Args:
        model: A ``ProvableNull``; its own radius is scored only if it is among the others.
        data: Images in [0,1] with labels.
        radii: In pixel units.
        on_images: Progress.

    Returns:
        One row per radius and image, :data:`nullclass.results.schema.RADIUS_COLUMNS`.

    Raises:
        UserError: If the model has no radius, or a radius is out of range.
    """
    if not isinstance(model, ProvableNull):
        raise UserError("only a ProvableNull has a radius: wrap the model in one")
    if not radii:
        raise UserError("give at least one radius")
    models = {
        radius: ProvableNull(model.model, radius, norm=model.norm, verifier=model.verifier)
        for radius in sorted(set(radii))
    }
    tables = []
    for indices in torch.arange(len(data)).split(BATCH_SIZE):
        images, labels = batch_of(model, data, indices)
        for radius, provable in models.items():
            logits = provable(images)
            predicted = predictions(logits, model.num_classes)
            columns = {
                "radius": radius,
                "image": indices.numpy(),
                "prediction": predicted.cpu().numpy(),
                "outcome": [OUTCOME_NAMES[code] for code in outcomes(predicted, labels).tolist()],
                "margin": logits[:, : model.num_classes].amax(dim=1).double().cpu().numpy(),
            }
            tables.append(pd.DataFrame(columns))
        on_images(len(indices))
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.sort_values(["radius", "image"], kind="stable", ignore_index=True)
    return rows[list(RADIUS_COLUMNS)].astype(RADIUS_COLUMNS)
