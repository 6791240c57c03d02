"""Scores images at each of several settings: sizes of a perturbation, radii of a proof."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.core.norms import find_norm, size_of
from nullclass.core.outcomes import outcomes, predictions
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.nulls.perturb import Perturbation, check_support, gradient_of, name_of
from nullclass.rejection import ProvableNull, with_proof
from nullclass.results.schema import RADIUS_COLUMNS, SIZE_COLUMNS
from nullclass.scoring.parts import FEW, NOTHING, Parts
from nullclass.scoring.score import OnImages, batch_seed, batches_of, check_labels, ignore, table_of


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
    parts: Parts = NOTHING,
) -> pd.DataFrame:
    """Score images perturbed by each of several sizes: does probability move to null?

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
        parts: Keeps what is finished, after each batch and size.

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
    parts = parts.of(
        models=[model, answering],
        images=data.batch(FEW)[0],
        perturbation=perturbation,
        norm=norm,
        seed=seed,
    )
    tables = []
    for indices, images, labels in batches_of(model, data):
        gradient = gradient_of(model, images, labels) if perturbation.needs_gradient else None
        first = int(indices[0])
        for size in sizes:
            kept = parts.of(f"{first}-{size!r}", images=images, labels=labels)
            score = partial(
                _score_size,
                model,
                answering,
                perturbation,
                images,
                labels,
                size,
                norm,
                batch_seed(seed, first),
                gradient,
            )
            tables.append(kept.keep(score).assign(image=indices.numpy(), size=size))
            on_images(len(indices))
    rows = pd.concat(tables, ignore_index=True).assign(
        perturbation=name_of(perturbation), norm=norm
    )
    return rows.sort_values(["size", "image"], kind="stable", ignore_index=True)[list(SIZE_COLUMNS)]


def _score_size(
    model: Classifier,
    answering: Classifier,
    perturbation: Perturbation,
    images: Tensor,
    labels: Tensor,
    size: float,
    norm: str,
    seed: int,
    gradient: Tensor | None,
) -> pd.DataFrame:
    """Return one row per image of a batch, perturbed by one size."""
    generator, sizes = torch.Generator().manual_seed(seed), images.new_full((len(images),), size)
    perturbed = perturbation(model, images, labels, sizes, norm, generator, gradient=gradient)
    with frozen(model), torch.no_grad():
        probabilities = model.all_logits(perturbed).float().softmax(dim=1)
        predicted = answering.predict(perturbed)
    columns = {
        "actual_size": size_of(perturbed, images, norm),
        "label": labels,
        "prediction": predicted,
        "outcome": outcomes(predicted, labels),
        "p_label": probabilities.gather(1, labels[:, None]).squeeze(1),
        "p_null": probabilities[:, model.num_classes :].sum(dim=1),
    }
    return table_of(columns)


@torch.no_grad()
def score_radii(
    model: Classifier,
    data: LabelledImages,
    radii: Sequence[float],
    *,
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
) -> pd.DataFrame:
    """Score clean images of a model that answers only what it can prove, at other radii.

    A larger radius r answers less, and proves more about each answer (up to eps = 2r). The share of
    images answered correctly at r is the certified accuracy at r, a lower bound of RAR at 2r
    (:mod:`nullclass.rejection.provable`). It takes one pass of bounds per radius.

    Args:
        model: A ``ProvableNull``; its own radius is scored only if it is among the others.
        data: Images in [0,1] with labels.
        radii: In pixel units.
        on_images: Progress.
        parts: Keeps what is finished, after each batch and radius.

    Returns:
        One row per radius and image, :data:`nullclass.results.schema.RADIUS_COLUMNS`.

    Raises:
        UserError: If the model has no radius, or a radius is out of range.
    """
    if not isinstance(model, ProvableNull):
        raise UserError("only a ProvableNull has a radius: wrap the model in one")
    if not radii:
        raise UserError("give at least one radius")
    models = {radius: with_proof(model, radius, norm=model.norm) for radius in sorted(set(radii))}
    parts = parts.of(
        models=[model], images=data.batch(FEW)[0], norm=model.norm, verifier=model.verifier
    )
    tables = []
    for indices, images, labels in batches_of(model, data, on_images=on_images):
        for radius, provable in models.items():
            kept = parts.of(f"{int(indices[0])}-{radius!r}", images=images, labels=labels)
            table = kept.keep(partial(_score_margins, provable, images, labels))
            tables.append(table.assign(image=indices.numpy(), radius=radius))
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.sort_values(["radius", "image"], kind="stable", ignore_index=True)
    return rows[list(RADIUS_COLUMNS)].astype(RADIUS_COLUMNS)


def _score_margins(model: Classifier, images: Tensor, labels: Tensor) -> pd.DataFrame:
    logits = model(images)
    predicted = predictions(logits, model.num_classes)
    columns = {
        "prediction": predicted,
        "outcome": outcomes(predicted, labels),
        "margin": logits[:, : model.num_classes].amax(dim=1).cpu().double(),
    }
    return table_of(columns)
