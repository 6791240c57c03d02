"""Scores perturbed images by size: does probability move to null, or to a wrong class?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch

from nullclass.core.devices import BATCH_SIZE
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.core.norms import find_norm, size_of
from nullclass.core.outcomes import OUTCOME_NAMES, outcomes
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.nulls.perturb import Perturbation, name_of
from nullclass.nulls.perturb.base import check_support, gradient_of
from nullclass.results.schema import SIZE_COLUMNS
from nullclass.scoring.rows import OnImages, batch_of, check_labels, ignore
from nullclass.scoring.run_attack import batch_seed


def score_sizes(
    model: Classifier,
    data: LabelledImages,
    perturbation: Perturbation,
    norm: str,
    sizes: Sequence[float],
    *,
    answering: Classifier | None = None,
    seed: int = 0,
    on_images: OnImages = ignore,
) -> pd.DataFrame:
    """Score images perturbed by each of several sizes.

    Perturbations are computed on the model itself, against its cross-entropy, with the same random
    draws for every size. They are not attacks: each has the full requested size.

    Args:
        model: The model whose probabilities are recorded.
        data: Clean images with real labels.
        perturbation: Makes the perturbations.
        norm: Norm of the sizes; one that the perturbation supports.
        sizes: Not negative; 0 is the clean image.
        answering: The model that predicts, if it is the same model under a threshold.
        seed: Seed of the perturbation's random draws.
        on_images: Progress.

    Returns:
        One row per image and size: :data:`nullclass.results.schema.SIZE_COLUMNS`.

    Raises:
        UserError: If a size is out of range, or the perturbation does not support the norm.
    """
    check_support(perturbation, norm)
    largest = find_norm(norm).largest(math.prod(data.images.shape[1:]))
    if not sizes or not all(0 <= size <= largest for size in sizes):
        raise UserError(f"give at least one size, all in [0, {largest:g}] in {norm}: {sizes}")
    check_labels(data, model)
    answering = answering or model
    tables = []
    for indices in torch.arange(len(data)).split(BATCH_SIZE):
        images, labels = batch_of(model, data, indices)
        gradient = gradient_of(model, images, labels) if perturbation.needs_gradient else None
        for size in sizes:
            generator = torch.Generator().manual_seed(batch_seed(seed, int(indices[0])))
            all_sizes = images.new_full((len(images),), size)
            perturbed = perturbation(
                model, images, labels, all_sizes, norm, generator, gradient=gradient
            )
            with frozen(model), torch.no_grad():
                probabilities = model.all_logits(perturbed).float().softmax(dim=1)
                predicted = answering.predict(perturbed)
            columns = {
                "perturbation": name_of(perturbation),
                "norm": norm,
                "size": size,
                "image": indices.numpy(),
                "actual_size": size_of(perturbed, images, norm).cpu().numpy(),
                "label": labels.cpu().numpy(),
                "prediction": predicted.cpu().numpy(),
                "outcome": [OUTCOME_NAMES[code] for code in outcomes(predicted, labels).tolist()],
                "p_label": probabilities.gather(1, labels[:, None]).squeeze(1).cpu().numpy(),
                "p_null": probabilities[:, model.num_classes :].sum(dim=1).cpu().numpy(),
            }
            tables.append(pd.DataFrame(columns))
            on_images(len(indices))
    rows = pd.concat(tables, ignore_index=True)
    return rows.sort_values(["size", "image"], kind="stable", ignore_index=True)[list(SIZE_COLUMNS)]
