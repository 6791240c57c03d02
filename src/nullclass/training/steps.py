"""One training step: a batch and null images in, gradients out. How nulls enter is the difference.

Beside (the notebook), on a batch (x, y) with null images x_null made from it:

    L = CE(f(x), y) + null_weight * CE(f(x_null), t),    t = (1 - p) onehot(y) + p null

with p = 1, but for sources that leave a share of the target on the true label
(:func:`nullclass.core.losses.null_targets`).

The gradient of L that makes FGSM null images comes from the same backward pass as the
parameters' gradient, so such null images cost one extra forward and backward pass, not two.

Within (Roos 2020): Binomial(batch, replace_rate) of the batch's images give way to null images made
from them, and there is one loss, the mean over all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.core.losses import Reduction, cross_entropy, null_targets, soft_cross_entropy
from nullclass.core.outcomes import NULL_LABEL
from nullclass.models.classifier import Classifier
from nullclass.nulls import NullImages, NullSource
from nullclass.training.robust.base import StepLoss

Precision = Callable[[], AbstractContextManager[object]]
"""Makes the context in which the layers run."""


@dataclass(frozen=True)
class StepLosses:
    """What a step saw."""

    loss: float
    """Beside: of the clean images. Within: of all."""
    null_loss: float
    """NaN if there were no null images."""
    num_correct: int
    """With a robust loss: how many stand at the step's ε."""
    num_judged: int
    """Images that ``num_correct`` counts among: clean ones beside, all within."""


def step_append_nulls(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    nulls: NullSource | None,
    generator: torch.Generator,
    precision: Precision,
    null_weight: float,
    nulls_per_image: float,
) -> StepLosses:
    """Add a step's gradients to the parameters, null images beside the batch.

    Args:
        model: The model, in training mode.
        images: ``(B, C, H, W)`` in [0,1], on the model's device.
        labels: ``(B,)``.
        nulls: Source of null images, if any.
        generator: Stream of the null images.
        precision: Context of the forward passes.
        null_weight: Weight of the null loss.
        nulls_per_image: Share of the batch from which null images are made.
    """
    images.requires_grad_(nulls is not None and nulls.needs_image_gradient)
    with precision():
        logits = model.all_logits(images)
    loss = cross_entropy(logits, labels)
    loss.backward()
    null_value = math.nan
    if nulls is not None:
        num = max(1, round(len(images) * nulls_per_image))
        part = images.detach()[:num]
        if images.grad is not None:
            part.grad = images.grad[:num]
        with precision():
            made = nulls(part, labels[:num], generator)
            null_logits = model.all_logits(made.images)
        null_loss = null_cross_entropy(model, null_logits, labels[:num], made)
        (null_weight * null_loss).backward()
        null_value = null_loss.item()
    return StepLosses(loss.item(), null_value, _num_correct(model, logits, labels), len(labels))


def null_cross_entropy(
    model: Classifier,
    logits: Tensor,
    labels: Tensor,
    made: NullImages,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """The loss of null images.

    Args:
        model: The model, which says what null logits there are.
        logits: ``(N, K + num_nulls)``, of the null images.
        labels: ``(N,)``, of the images they were made from.
        made: The null images.
        reduction: As in :func:`torch.nn.functional.cross_entropy`.
    """
    if made.null_probs is None and model.num_nulls == 1:
        return cross_entropy(logits, torch.full_like(labels, NULL_LABEL), reduction=reduction)
    targets = null_targets(labels, made.null_probs, model.num_classes, model.num_nulls)
    return soft_cross_entropy(logits, targets, reduction=reduction)


def step_replace_with_nulls(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    nulls: NullSource | None,
    generator: torch.Generator,
    precision: Precision,
    replace_rate: float,
) -> StepLosses:
    """Add a step's gradients to the parameters, null images within the batch.

    Args:
        model: The model, in training mode.
        images: ``(B, C, H, W)`` in [0,1], on the model's device.
        labels: ``(B,)``.
        nulls: Source of null images; without one the batch stays as it is.
        generator: Stream of the null images and of their number.
        precision: Context of the forward pass.
        replace_rate: Expected share of null images.
    """
    images, labels, num_nulls = mix_within(images, labels, nulls, generator, replace_rate)
    with precision():
        logits = model(images)
    losses = cross_entropy(logits, labels, reduction="none")
    loss = losses.mean()
    loss.backward()
    null_value = losses[-num_nulls:].mean().item() if num_nulls else math.nan
    return StepLosses(loss.item(), null_value, _num_correct(model, logits, labels), len(labels))


def step_robust(
    robust: StepLoss, images: Tensor, labels: Tensor, generator: torch.Generator, progress: float
) -> StepLosses:
    """Add a step's gradients to the parameters, by a robust loss
    (:mod:`nullclass.training.robust`).

    Args:
        robust: The loss, bound to the model.
        images: ``(B, C, H, W)`` in [0,1], on the model's device.
        labels: ``(B,)``.
        generator: Stream of the attack's random starts.
        progress: Share of all steps that are done.
    """
    seen = robust(images, labels, progress, generator)
    seen.loss.backward()
    return StepLosses(seen.loss.item(), math.nan, seen.num_right, len(labels))


def mix_within(
    images: Tensor,
    labels: Tensor,
    nulls: NullSource | None,
    generator: torch.Generator,
    replace_rate: float,
) -> tuple[Tensor, Tensor, int]:
    """Put null images in the place of the last few images of a batch.

    Returns:
        Images and labels of the same shapes, and how many null images are at their end.
    """
    if nulls is None:
        return images, labels, 0
    size = torch.tensor(float(len(images)))
    num_nulls = int(torch.binomial(size, torch.tensor(replace_rate), generator=generator))
    num_real = len(images) - num_nulls
    made = nulls(images, labels, generator).images
    images = torch.cat([images[:num_real], made[num_real:]])
    labels = torch.cat([labels[:num_real], labels.new_full((num_nulls,), NULL_LABEL)])
    return images, labels, num_nulls


def _num_correct(model: Classifier, logits: Tensor, labels: Tensor) -> int:
    predicted = logits.detach().argmax(dim=1)
    return int((predicted == labels.where(labels >= 0, model.num_classes)).sum())
