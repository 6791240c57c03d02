"""One training step: a batch and null images in, gradients out.

``step_append_nulls`` (the notebook), with null images x_null made from the batch (x, y):

    L = CE(f(x), y) + null_weight * CE(f(x_null), t),    t = (1 - p) onehot(y) + p null

p is 1 unless the null source is soft (:func:`nullclass.core.losses.null_targets`). The gradient of
L for FGSM null images comes from the same backward pass as that of the parameters, so such null
images cost one extra forward and backward pass instead of two.

``step_replace_with_nulls`` (Roos 2020): null images replace Binomial(batch size, replace_rate)
images of the batch, and the loss is the mean over all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from nullclass.core.devices import supports_bfloat16
from nullclass.core.losses import Reduction, cross_entropy, null_targets, soft_cross_entropy
from nullclass.core.outcomes import NULL_LABEL
from nullclass.models.classifier import Classifier
from nullclass.nulls import NullImages, NullSource
from nullclass.training.config import TrainConfig
from nullclass.training.recipes import Recipe
from nullclass.training.robust.base import StepLoss

Autocast = Callable[[], AbstractContextManager[object]]
"""Makes the context in which the layers run."""


@dataclass(frozen=True)
class StepLosses:
    """Results of a step."""

    loss: float
    """Mean over the clean images, or over all images if null images replace some."""
    null_loss: float | None
    """Mean over the null images; ``None`` without any."""
    num_correct: int
    """Correct images of the batch; with a robust loss, images that are robust at the step's ε."""


Step = Callable[[Tensor, Tensor, float], StepLosses]
"""Images ``(B, C, H, W)`` in [0,1], labels ``(B,)`` and the progress in [0, 1) of all steps to
losses; adds the gradients to the parameters."""


@dataclass(frozen=True)
class StepContext:
    """What the steps of a training share."""

    model: Classifier
    config: TrainConfig
    nulls: NullSource | None
    generator: torch.Generator
    """Random stream of null images, their number, and the starts of attacks."""

    @cached_property
    def autocast(self) -> Autocast:
        """Context of the forward passes."""
        return autocast_of(self.config.recipe, self.model.mean.device)


def make_step(context: StepContext) -> Step:
    """Return the training step of a configuration."""
    if context.config.robust is not None:
        loss = context.config.robust.bind(context.model)
        return lambda images, labels, progress: step_robust(
            loss, images, labels, context.generator, progress
        )
    appends = context.config.replace_rate is None
    step = step_append_nulls if appends else step_replace_with_nulls
    return lambda images, labels, progress: step(context, images, labels)


def step_append_nulls(context: StepContext, images: Tensor, labels: Tensor) -> StepLosses:
    """Compute gradients with null images appended to the batch."""
    model, nulls = context.model, context.nulls
    images.requires_grad_(nulls is not None and nulls.needs_image_gradient)
    with context.autocast():
        logits = model.all_logits(images)
    loss = cross_entropy(logits, labels)
    loss.backward()
    null_loss = None
    if nulls is not None:
        num = max(1, round(len(images) * context.config.recipe.nulls_per_image))
        part = images.detach()[:num]
        if images.grad is not None:
            part.grad = images.grad[:num]
        with context.autocast():
            made = nulls(part, labels[:num], context.generator)
            null_logits = model.all_logits(made.images)
        mean_loss = null_cross_entropy(model, null_logits, labels[:num], made)
        (context.config.null_weight * mean_loss).backward()
        null_loss = mean_loss.item()
    return StepLosses(loss.item(), null_loss, _num_correct(model, logits, labels))


def step_replace_with_nulls(context: StepContext, images: Tensor, labels: Tensor) -> StepLosses:
    """Compute gradients with null images in the place of some images of the batch."""
    num_nulls = 0
    if context.nulls is not None:
        rate = context.config.replace_rate or 0.0
        images, labels, num_nulls = replace_with_nulls(
            images, labels, context.nulls, context.generator, rate
        )
    with context.autocast():
        logits = context.model(images)
    losses = cross_entropy(logits, labels, reduction="none")
    loss = losses.mean()
    loss.backward()
    null_loss = losses[-num_nulls:].mean().item() if num_nulls else None
    return StepLosses(loss.item(), null_loss, _num_correct(context.model, logits, labels))


def step_robust(
    robust: StepLoss, images: Tensor, labels: Tensor, generator: torch.Generator, progress: float
) -> StepLosses:
    """Compute the gradients of a robust loss (:mod:`nullclass.training.robust`)."""
    output = robust(images, labels, progress, generator)
    output.loss.backward()
    return StepLosses(output.loss.item(), None, output.num_robust)


def replace_with_nulls(
    images: Tensor,
    labels: Tensor,
    nulls: NullSource,
    generator: torch.Generator,
    replace_rate: float,
) -> tuple[Tensor, Tensor, int]:
    """Replace the last Binomial(B, replace_rate) images of a batch by null images made from them.

    Returns:
        Images and labels of the same shapes, and the number of null images.
    """
    size = torch.tensor(float(len(images)))
    num_nulls = int(torch.binomial(size, torch.tensor(replace_rate), generator=generator))
    num_real = len(images) - num_nulls
    made = nulls(images, labels, generator).images
    images = torch.cat([images[:num_real], made[num_real:]])
    labels = torch.cat([labels[:num_real], labels.new_full((num_nulls,), NULL_LABEL)])
    return images, labels, num_nulls


def null_cross_entropy(
    model: Classifier,
    logits: Tensor,
    labels: Tensor,
    made: NullImages,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the cross-entropy of null images.

    Args:
        model: The model, whose null logits decide the targets.
        logits: ``(N, K + num_nulls)`` of the null images.
        labels: ``(N,)`` of the images that they were made from.
        made: The null images.
        reduction: As in :func:`torch.nn.functional.cross_entropy`.
    """
    if made.null_probs is None and model.num_nulls == 1:
        return cross_entropy(logits, torch.full_like(labels, NULL_LABEL), reduction=reduction)
    targets = null_targets(labels, made.null_probs, model.num_classes, model.num_nulls)
    return soft_cross_entropy(logits, targets, reduction=reduction)


def autocast_of(recipe: Recipe, device: torch.device) -> Autocast:
    """Return the context of a recipe's forward passes, to be called per pass."""
    is_reduced = recipe.precision == "bfloat16" and supports_bfloat16(device)
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=is_reduced)


def _num_correct(model: Classifier, logits: Tensor, labels: Tensor) -> int:
    predicted = logits.detach().argmax(dim=1)
    return int((predicted == labels.where(labels >= 0, model.num_classes)).sum())
