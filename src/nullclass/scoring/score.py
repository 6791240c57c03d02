"""Turns images, clean or attacked, into rows: what the model answers, and with which outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks.losses import find_objective
from nullclass.attacks.state import logits_of
from nullclass.core.devices import exact_float32, images_at_once
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.core.modules import frozen
from nullclass.core.norms import Eps
from nullclass.core.outcomes import NULL_LABEL, OUTCOME_NAMES, outcomes, predictions
from nullclass.data import Dataset, LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.rejection import null_scores
from nullclass.results.schema import (
    CLEAN,
    ROW_COLUMNS,
)
from nullclass.scoring.parts import FEW, NOTHING, Parts

OnImages = Callable[[int], None]
"""Progress callback: receives the number of images scored since the last call."""


def ignore(num_images: int) -> None:
    """Progress callback that does nothing."""


def check_labels(data: LabelledImages, model: Classifier) -> None:
    """Refuse labels that are not real classes of the model.

    Raises:
        UserError: If there are any.
    """
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= model.num_classes:
        raise UserError(
            f"labels run from {low} to {high}; the model has the classes 0 to "
            f"{model.num_classes - 1}"
        )


def check_classes(dataset: Dataset, model: Classifier) -> None:
    """Refuse data whose classes are not those of the model.

    Raises:
        UserError: If test labels are no classes of the model, or the data names another number of
            classes, as a folder does that lacks some.
    """
    check_labels(dataset.test, model)
    if dataset.names_its_classes and dataset.num_classes != model.num_classes:
        raise UserError(
            f"{dataset.name} has {dataset.num_classes} classes, the model {model.num_classes}: "
            "give data with all classes of the model, in their order"
        )


def batch_of(model: Classifier, data: LabelledImages, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return images and labels at the given indices, on the model's device."""
    images, labels = data.batch(indices)
    return images.to(model.mean.device), labels.to(model.mean.device)


def batches_of(
    model: Classifier,
    data: LabelledImages,
    chosen: Tensor | None = None,
    *,
    size: int | None = None,
    on_images: OnImages = ignore,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield indices, images and labels in batches, the latter two on the model's device.

    Args:
        model: The model.
        data: Images and labels.
        chosen: ``(N,)`` indices. Default: all, in order.
        size: Images per batch. Default: :func:`nullclass.core.devices.images_at_once`.
        on_images: Called after each batch.
    """
    chosen = torch.arange(len(data)) if chosen is None else chosen
    for indices in chosen.split(size or images_at_once(data.images.shape)):
        yield indices, *batch_of(model, data, indices)
        on_images(len(indices))


def batch_seed(seed: int, first: int) -> int:
    """Return the seed of the batch that starts at an index, independent of the other batches."""
    return (seed * 1_000_003 + first) % 2**63


def score_batch(
    model: Classifier,
    images: Tensor,
    labels: Tensor | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Return one row per image with the model's answer.

    Args:
        model: The model; its mode and gradients are left as they are.
        images: ``(N, C, H, W)`` in [0,1], on the model's device.
        labels: ``(N,)`` real classes; None for images that belong to no class.
        batch_size: Images per forward pass.

    Returns:
        Columns ``prediction`` (-1 for null), ``real_prediction`` (the best real class),
        ``confidence`` (softmax probability of the answer) and ``null_score``
        (:func:`nullclass.rejection.null_scores`). With labels also ``label``,
        ``outcome``, ``loss`` (cross-entropy to the label) and ``null_loss`` (cross-entropy to
        null; NaN without a null class).

    Raises:
        UserError: If the logits are not finite.
    """
    num_classes = model.num_classes
    with frozen(model), torch.no_grad():
        logits = logits_of(model, images, batch_size)
        columns = {
            "prediction": predictions(logits, num_classes),
            "real_prediction": logits[:, :num_classes].argmax(dim=1),
            "confidence": logits.softmax(dim=1).amax(dim=1),
            "null_score": null_scores(logits, num_classes),
        }
        if labels is not None:
            nulls = torch.full_like(labels, NULL_LABEL)
            has_null = logits.shape[1] > num_classes
            columns |= {
                "label": labels,
                "outcome": outcomes(columns["prediction"], labels),
                "loss": cross_entropy(logits, labels, reduction="none"),
                "null_loss": cross_entropy(logits, nulls, reduction="none")
                if has_null
                else torch.full(labels.shape, torch.nan),
            }
    return table_of(columns)


def table_of(columns: Mapping[str, Tensor]) -> pd.DataFrame:
    """Return one row per image from columns ``(N,)`` on any device, outcomes by their names."""
    table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    if "outcome" in table:
        table["outcome"] = [OUTCOME_NAMES[code] for code in table["outcome"]]
    return table


def label_rows(
    answers: pd.DataFrame,
    indices: Tensor,
    *,
    attack: str = CLEAN,
    objective: str = CLEAN,
    source: str = CLEAN,
    norm: str,
    eps: Eps = 0.0,
    attacked_eps: Eps = math.nan,
    members: list[str] | str = CLEAN,
) -> pd.DataFrame:
    """Return rows of :func:`score_batch` with the columns that say what was done to the images.

    Args:
        answers: From :func:`score_batch`, with labels.
        indices: ``(N,)`` indices of the images in the dataset.
        attack: Name of the attack.
        objective: Its objective.
        source: Name of the attacked model.
        norm: Norm of the budget.
        eps: The budget in pixel units, or ``(N,)``, one per image.
        attacked_eps: The eps at which the images were attacked, or ``(N,)``; NaN for none.
        members: ``member`` of the rows, or ``(N,)``.
    """
    return answers.assign(
        image=indices.numpy(),
        attack=attack,
        objective=objective,
        source=source,
        norm=norm,
        has_own_eps=isinstance(eps, Tensor),
        eps_pixels=_values(eps),
        attacked_eps_pixels=_values(attacked_eps),
        member=members,
    )


def _values(eps: Eps) -> Any:
    return eps.cpu().double().numpy() if isinstance(eps, Tensor) else eps


def is_success(answers: pd.DataFrame, objective: str) -> Tensor:
    """Return ``(N,)`` booleans on the CPU: whether the attack succeeded on each row."""
    codes = [OUTCOME_NAMES.index(outcome) for outcome in answers["outcome"]]
    return find_objective(objective).is_reached(torch.tensor(codes, dtype=torch.int64))


def sort_rows(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return tables of rows as one, sorted by attack, eps and image."""
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.sort_values(["attack", "eps_pixels", "image"], kind="stable", ignore_index=True)
    return rows[list(ROW_COLUMNS)]


@exact_float32()
def score_clean(
    model: Classifier,
    data: LabelledImages,
    *,
    norm: str = "linf",
    batch_size: int | None = None,
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
) -> pd.DataFrame:
    """Return rows of the unmodified images; ``parts`` keeps those of every batch."""
    parts = parts.of(models=[model], images=data.batch(FEW)[0], batch_size=batch_size)
    tables = []
    for indices, images, labels in batches_of(model, data, on_images=on_images):
        kept = parts.of(f"{int(indices[0])}", images=images, labels=labels)
        answers = kept.keep(partial(score_batch, model, images, labels, batch_size))
        tables.append(label_rows(answers, indices, norm=norm))
    return pd.concat(tables, ignore_index=True)
