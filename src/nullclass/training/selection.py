"""Which epoch's weights to keep: the one with the lowest loss on images set aside for that.

The report (Roos 2020) looks at the test set, mixed 1:1 with null images. That tells the test set
something about the model that is kept; images held out of the training set do the same honestly.
Where the learning rate falls to zero at the end, the epochs before are no candidates, and only the
last is looked at.
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
from nullclass.training.steps import Precision, null_cross_entropy

_BATCH = 250


class BestCheckpoints:
    """Keeps, for each of several sets of images, the weights of the best epoch so far.

    Args:
        images: The sets by name.
        nulls: Source of the null images mixed in, one for each image; none are without it.
        stream: Seed of these null images: the same in every epoch and every training.
    """

    def __init__(
        self,
        images: Mapping[str, LabelledImages],
        nulls: NullSource | None,
        stream: int = 1_000_003,
    ) -> None:
        self.images = dict(images)
        self.nulls = nulls
        self.stream = stream
        self.best: dict[str, tuple[float, int]] = {}
        """Lowest loss and its epoch."""
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.forget()

    def forget(self) -> None:
        """Begin anew, with another training."""
        self.best = dict.fromkeys(self.images, (math.inf, 0))
        self.weights = {}

    def look(self, model: Classifier, epoch: int, precision: Precision) -> dict[str, float]:
        """Measure the model after an epoch, keep it where it is the best; returns the losses."""
        losses = {name: self.loss(model, data, precision) for name, data in self.images.items()}
        for name, loss in losses.items():
            if loss < self.best[name][0]:
                self.best[name] = (loss, epoch)
                state = model.state_dict()
                self.weights[name] = {key: value.detach().clone() for key, value in state.items()}
        return losses

    @torch.no_grad()
    def loss(self, model: Classifier, data: LabelledImages, precision: Precision) -> float:
        """Mean cross-entropy over the images and as many null images made from them."""
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        generator = torch.Generator().manual_seed(self.stream)
        total, count = 0.0, 0
        # Shuffled: some null images need several classes in a batch, and files may be sorted.
        order = torch.randperm(len(data), generator=generator)
        for indices in order.tensor_split(math.ceil(len(data) / _BATCH)):
            images, labels = (tensor.to(device) for tensor in data.batch(indices))
            made = None if self.nulls is None else self.nulls(images, labels, generator)
            with precision():
                logits = model.all_logits(
                    images if made is None else torch.cat([images, made.images])
                )
            real, nulls = logits[: len(labels)], logits[len(labels) :]
            total += float(cross_entropy(real, labels, reduction="sum"))
            if made is not None:
                total += float(null_cross_entropy(model, nulls, labels, made, reduction="sum"))
            count += len(logits)
        model.train(was_training)
        return total / count
