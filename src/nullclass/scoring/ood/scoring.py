"""What a model makes of images of no class. The right answer is always null."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks.base import frozen
from nullclass.core.errors import UserError
from nullclass.core.outcomes import predictions
from nullclass.models.classifier import Classifier
from nullclass.rejection import null_scores

BATCH_SIZE = 256
"""Images per batch."""


def score_ood(model: Classifier, images: Tensor, name: str) -> pd.DataFrame:
    """Predictions and null scores of images of no class.

    Args:
        model: The model; left as it is found.
        images: ``(N, C, H, W)`` float32 in [0,1], on any device.
        name: Where the images are from, as the rows are to call it.

    Returns:
        One image a line: ``source``, ``image`` (its position), ``prediction`` (-1 for null, the
        right answer), ``real_prediction`` (the best real class), ``confidence`` (the probability
        of the answer) and ``null_score`` (:func:`nullclass.rejection.threshold.null_scores`).

    Raises:
        UserError: If there are no images, or the model's logits are not finite.
    """
    if len(images) == 0:
        raise UserError(f"there are no images from {name} to score: give at least one")
    tables = []
    with frozen(model), torch.no_grad():
        for batch in images.split(BATCH_SIZE):
            logits = model(batch.to(model.mean.device))
            if not bool(logits.isfinite().all()):
                raise UserError(
                    f"the model's logits of images from {name} are not finite: its weights are "
                    "broken"
                )
            told = {
                "prediction": predictions(logits, model.num_classes),
                "real_prediction": logits[:, : model.num_classes].argmax(dim=1),
                "confidence": logits.softmax(dim=1).amax(dim=1),
                "null_score": null_scores(logits, model.num_classes),
            }
            tables.append(pd.DataFrame({key: value.cpu().numpy() for key, value in told.items()}))
    rows = pd.concat(tables, ignore_index=True)
    rows.insert(0, "image", range(len(rows)))
    rows.insert(0, "source", name)
    return rows
