"""What a classifier that answers what it can prove would answer with other radii.

A larger radius proves more of what it answers (at ε = 2r) and answers less. One pass of bounds over
the test images a radius tells how much: the share answered rightly at r is the certified accuracy
at r, and so what is proved of RAR at 2r (:mod:`nullclass.rejection.provable`).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES, outcomes, predictions
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.rejection import ProvableNull
from nullclass.results.schema import RADIUS_COLUMNS
from nullclass.scoring.run_attack import OnImages

BATCH_SIZE = 500
"""Images bounded at once."""


@torch.no_grad()
def score_radii(
    model: Classifier,
    images: LabelledImages,
    radii: Sequence[float],
    *,
    on_images: OnImages | None = None,
) -> pd.DataFrame:
    """Ask a model with each radius in turn about clean images.

    Args:
        model: A ``ProvableNull``; its own radius is not asked unless it is among the others.
        images: In [0,1], with labels.
        radii: In pixel units.
        on_images: Progress: called with the number of images just dealt with.

    Returns:
        A row a radius and image, :data:`nullclass.results.schema.RADIUS_COLUMNS`.

    Raises:
        UserError: If the model proves nothing, there is no radius, or one makes no sense.
    """
    if not isinstance(model, ProvableNull):
        raise UserError("only a model that answers what it proves has a radius to change")
    if not radii:
        raise UserError("give at least one radius")
    asked = {
        radius: ProvableNull(model.model, radius, norm=model.norm, verifier=model.verifier)
        for radius in sorted(set(radii))
    }
    tables = []
    for indices in torch.arange(len(images)).split(BATCH_SIZE):
        batch, labels = images.batch(indices)
        batch, labels = batch.to(model.mean.device), labels.to(model.mean.device)
        for radius, answering in asked.items():
            logits = answering(batch)
            predicted = predictions(logits, model.num_classes)
            found = outcomes(predicted, labels).tolist()
            tables.append(
                pd.DataFrame(
                    {
                        "radius": radius,
                        "image": indices.numpy(),
                        "prediction": predicted.cpu().numpy(),
                        "outcome": [OUTCOME_NAMES[outcome] for outcome in found],
                        "margin": logits[:, : model.num_classes].amax(dim=1).double().cpu().numpy(),
                    }
                )
            )
        if on_images is not None:
            on_images(len(indices))
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.sort_values(["radius", "image"], kind="stable", ignore_index=True)
    return rows[list(RADIUS_COLUMNS)].astype(RADIUS_COLUMNS)
