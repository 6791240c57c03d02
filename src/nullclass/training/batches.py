"""Training data -> batches: shuffled tensors in memory, or a loader that is read in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.data.arrays import is_meant_as_pair


@dataclass(frozen=True)
class TensorBatches:
    """Images in memory, shuffled anew in every epoch."""

    data: LabelledImages
    batch_size: int
    generators: tuple[torch.Generator, ...] = ()
    """Random streams of the data, besides the training's own."""

    def __len__(self) -> int:
        return steps_per_epoch(len(self.data), self.batch_size)

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images ``(B, C, H, W)`` in [0,1] and labels ``(B,)``."""
        order = torch.randperm(len(self.data), generator=generator)
        for indices in order.split(self.batch_size)[: len(self)]:
            yield self.data.batch(indices)

    def fingerprint(self) -> list[Any]:
        """Return JSON values that identify the data."""
        return [len(self.data), self.data.sha256()]


@dataclass(frozen=True)
class LoaderBatches:
    """The batches of a loader, which decides their size and order."""

    loader: Any
    num_classes: int
    check_labels: Callable[[Tensor], None]

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images ``(B, C, H, W)`` in [0,1] and labels ``(B,)``."""
        for batch in self.loader:
            pair = tuple(batch) if isinstance(batch, list) else batch
            data = tensors_or_loader([pair], self.num_classes)
            self.check_labels(data.labels)
            yield data.batch(slice(None))

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        """Generators of the loader and its samplers; without one they use torch's global stream."""
        by_batch = getattr(self.loader, "batch_sampler", None)
        samplers = getattr(self.loader, "sampler", None), getattr(by_batch, "sampler", None)
        found = [getattr(o, "generator", None) for o in (self.loader, by_batch, *samplers)]
        return tuple(dict.fromkeys(g for g in found if isinstance(g, torch.Generator)))

    def fingerprint(self) -> list[Any]:
        """Return JSON values that identify the data; random transforms may change the images."""
        dataset = getattr(self.loader, "dataset", None)
        num_images = len(dataset) if isinstance(dataset, Sized) else None
        return [type(self.loader).__name__, len(self), type(dataset).__name__, num_images]


def as_batches(
    data: Any, batch_size: int, num_classes: int, check_labels: Callable[[Tensor], None]
) -> TensorBatches | LoaderBatches:
    """Return the batches of the data that a user passes.

    Args:
        data: As for :func:`nullclass.train`.
        batch_size: Size of batches made from tensors.
        num_classes: K, the number of real classes.
        check_labels: Raises a UserError for labels that the model cannot be trained on.

    Raises:
        UserError: If the data are not images with labels, or cannot be read in every epoch.
    """
    if is_meant_as_pair(data) or isinstance(data, LabelledImages | Tensor | str | bytes | dict):
        images = tensors_or_loader(data)
        check_labels(images.labels)
        return TensorBatches(images, batch_size)
    if not hasattr(data, "__iter__"):
        tensors_or_loader(data)  # raises
    try:
        num_batches = len(data)
    except TypeError:
        raise UserError(
            "the training data have no length, but train reads them in every epoch and needs the "
            "number of batches: pass a DataLoader of a dataset with a length, a list of batches or "
            "tensors"
        ) from None
    if not num_batches:
        raise UserError("the loader has no batches: give it at least one image")
    return LoaderBatches(data, num_classes, check_labels)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Return the number of batches; a last batch of less than half the size is left out.

    It would be noise, and could hold too few classes to make null images from.
    """
    num_steps, rest = divmod(num_images, batch_size)
    return max(1, num_steps + int(2 * rest >= batch_size))
