"""Where a model's probability goes as images are perturbed more: to null, or to a wrong class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch

from nullclass.attacks.base import frozen
from nullclass.core.errors import UserError
from nullclass.core.norms import find_norm, size_of
from nullclass.core.outcomes import OUTCOME_NAMES, outcomes
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.nulls.perturb import Perturbation, name_of
from nullclass.nulls.perturb.base import check_maker, gradient_of
from nullclass.results.schema import SIZE_COLUMNS
from nullclass.scoring.run_attack import BATCH_SIZE, OnImages, check_labels, seed_for


def score_sizes(
    model: Classifier,
    data: LabelledImages,
    perturbation: Perturbation,
    norm: str,
    sizes: Sequence[float],
    *,
    answering: Classifier | None = None,
    seed: int = 0,
    on_images: OnImages = lambda _: None,
) -> pd.DataFrame:
    """Probabilities and answers for images perturbed by each of several sizes.

    The perturbations are made on the model itself, against its cross-entropy, with the same random
    draws for every size. They are not attacks: they go as far as they are told.

    Args:
        model: The model whose probabilities are told.
        data: Clean images with real labels.
        perturbation: What perturbs them.
        norm: How sizes are told; one of the maker's.
        sizes: In units of the norm, not negative; 0 is the clean image.
        answering: The same model as it answers, if that is by a threshold.
        seed: Of what the maker draws.
        on_images: Progress.

    Returns:
        One image and size a line: :data:`nullclass.results.schema.SIZE_COLUMNS`.

    Raises:
        UserError: If there are no sizes, or the maker cannot be told them.
    """
    name = name_of(perturbation)
    check_maker(perturbation, norm)
    largest = find_norm(norm).largest(math.prod(data.images.shape[1:]))
    if not sizes or not all(0 <= size <= largest for size in sizes):
        raise UserError(f"give at least one size, all in [0, {largest:g}] in {norm}: {sizes}")
    check_labels(data, model)
    answering = model if answering is None else answering
    device, tables = model.mean.device, []
    for indices in torch.arange(len(data)).split(BATCH_SIZE):
        images, labels = (tensor.to(device) for tensor in data.batch(indices))
        wants = perturbation.needs_gradient
        gradient = gradient_of(model, images, labels) if wants else None
        for size in sizes:
            generator = torch.Generator().manual_seed(seed_for(seed, int(indices[0])))
            asked = images.new_full((len(images),), size)
            perturbed = perturbation(
                model, images, labels, asked, norm, generator, gradient=gradient
            )
            with frozen(model), torch.no_grad():
                shares = model.all_logits(perturbed).float().softmax(dim=1)
                predicted = answering.predict(perturbed)
            scored = outcomes(predicted, labels).cpu()
            told = {
                "perturbation": name,
                "norm": norm,
                "size": size,
                "image": indices.numpy(),
                "reached": size_of(perturbed, images, norm).cpu().numpy(),
                "label": labels.cpu().numpy(),
                "prediction": predicted.cpu().numpy(),
                "outcome": [OUTCOME_NAMES[code] for code in scored.tolist()],
                "p_label": shares.gather(1, labels[:, None]).squeeze(1).cpu().numpy(),
                "p_null": shares[:, model.num_classes :].sum(dim=1).cpu().numpy(),
            }
            tables.append(pd.DataFrame(told))
            on_images(len(indices))
    rows = pd.concat(tables, ignore_index=True)
    return rows.sort_values(["size", "image"], kind="stable", ignore_index=True)[list(SIZE_COLUMNS)]
