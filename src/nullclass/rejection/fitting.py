"""Clean training images and hidden features, for detectors that are fitted to them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nullclass.core.devices import default_batch_size
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.models.classifier import Classifier, at_least_float32
from nullclass.rejection.reject_by import check_without_null

Images = LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
"""Labelled images, a pair of tensors, or a loader."""


@contextmanager
def clean_batches(
    classifier: Classifier, clean: Images, min_per_class: int
) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Give batches of clean images and labels on the classifier's device.

    Inside the block the classifier is in evaluation mode, and there are no gradients.

    Raises:
        UserError: If the classifier has null, a class has fewer images than needed, or a label is
            null or no class of the classifier.
    """
    num_classes = check_without_null(classifier).num_classes
    data = tensors_or_loader(clean, num_classes)
    if int(data.labels.min()) < 0:
        raise UserError("a detector is fitted to images of real classes: leave out null images")
    counts = data.labels.bincount(minlength=num_classes)
    if int(counts.min()) < min_per_class:
        raise UserError(
            f"class {int(counts.argmin())} has {int(counts.min())} images, and the detector needs "
            f"at least {min_per_class} per class: give more training images"
        )
    with frozen(classifier), torch.no_grad():
        yield _batches(data, classifier.mean.device)


def _batches(data: LabelledImages, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in data.batches():
        images, labels = (part.to(device) for part in batch)
        size = default_batch_size(images)
        yield from zip(images.split(size), labels.split(size), strict=True)


def hidden_features(classifier: Classifier, images: Tensor, layer: str | None = None) -> Tensor:
    """Return hidden features ``(N, D)`` of images ``(N, C, H, W)``, by one forward pass.

    Args:
        classifier: The network.
        images: In [0,1].
        layer: Name of a layer in ``classifier.named_modules()``; its output is taken, of feature
            maps the mean over positions (Lee et al. 2018). Default: the last hidden layer, the
            input of the last ``torch.nn.Linear``.

    Raises:
        UserError: If there is no such layer, or the network does not run it.
    """
    modules = dict(classifier.named_modules())
    if layer is None:
        names = [name for name, part in modules.items() if isinstance(part, nn.Linear)]
        if not names:
            raise UserError("the classifier has no torch.nn.Linear: name a layer of it")
        register = modules[names[-1]].register_forward_pre_hook
    elif layer in modules:
        register = modules[layer].register_forward_hook
    else:
        known = ", ".join(filter(None, modules))
        raise UserError(f"the classifier has no layer {layer!r}: its layers are {known}")
    found: object = None
    thread = threading.get_ident()

    def keep(_: nn.Module, inputs: tuple[object, ...], *output: object) -> None:
        nonlocal found
        if threading.get_ident() == thread:  # another one may run the same layer meanwhile
            found = output[0] if output else inputs[0]

    hook = register(keep)
    try:
        classifier(images)
    finally:
        hook.remove()
    if not isinstance(found, Tensor) or found.shape[:1] != images.shape[:1]:
        raise UserError(
            f"the layer {layer or 'torch.nn.Linear'} gives no tensor of features per image, or the "
            "network does not run it: name another layer"
        )
    features = found.flatten(2).mean(dim=2) if found.ndim == 4 else found.flatten(1)
    return at_least_float32(features)
