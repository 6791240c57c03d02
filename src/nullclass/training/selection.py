"""Checkpoint selection: the weights of the epoch with the lowest loss on held-out images.

Roos 2020 selects on the test set, mixed 1:1 with null images. This leaks information about the test
set into the model; images held out of the training set do not. If the learning rate falls to zero
at the end, only the last epoch is a candidate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nullclass.core.losses import cross_entropy
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.nulls import NullSource
from nullclass.training.steps import Autocast, null_cross_entropy

_SEED = 1_000_003
"""Of the null images, which are the same in every epoch and training."""

_BATCH_SIZE = 250
"""Part of what the seed means: null images are drawn batch by batch."""


class BestCheckpoints:
    """Keeps the weights of the best epoch so far, for each of several sets of images.

    Args:
        images: The sets by name.
        nulls: Source of null images, one per image; ``None`` uses none.
    """

    def __init__(
        self,
        images: Mapping[str, LabelledImages],
        nulls: NullSource | None,
    ) -> None:
        self.images = dict(images)
        self.nulls = nulls
        self.best: dict[str, tuple[float, int]] = {}
        """The lowest loss and its epoch."""
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all epochs."""
        self.best = dict.fromkeys(self.images, (math.inf, 0))
        self.weights = {}

    def update(self, model: Classifier, epoch: int, autocast: Autocast) -> dict[str, float]:
        """Compute the losses after an epoch, copy the weights where they are the lowest so far."""
        losses = {name: self.loss(model, data, autocast) for name, data in self.images.items()}
        for name, loss in losses.items():
            if loss < self.best[name][0]:
                self.best[name] = (loss, epoch)
                state = model.state_dict()
                self.weights[name] = {key: value.detach().clone() for key, value in state.items()}
        return losses

    @torch.no_grad()
    def loss(self, model: Classifier, data: LabelledImages, autocast: Autocast) -> float:
        """Return the mean cross-entropy over the images and the null images made from them."""
        was_training = model.training
        model.eval()
        generator = torch.Generator().manual_seed(_SEED)
        total, count = 0.0, 0
        # Shuffled: files may be sorted by class, and some sources need several classes per batch.
        order = torch.randperm(len(data), generator=generator)
        for indices in order.tensor_split(math.ceil(len(data) / _BATCH_SIZE)):
            images, labels = (tensor.to(model.mean.device) for tensor in data.batch(indices))
            made = None if self.nulls is None else self.nulls(images, labels, generator)
            inputs = images if made is None else torch.cat([images, made.images])
            with autocast():
                logits = model.all_logits(inputs)
            clean_logits, null_logits = logits[: len(labels)], logits[len(labels) :]
            total += float(cross_entropy(clean_logits, labels, reduction="sum"))
            if made is not None:
                null_loss = null_cross_entropy(model, null_logits, labels, made, reduction="sum")
                total += float(null_loss)
            count += len(logits)
        model.train(was_training)
        return total / count
