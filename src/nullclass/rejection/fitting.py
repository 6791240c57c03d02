"""Clean training images and hidden features, for detectors that are fitted to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from nullclass.core.devices import BATCH_SIZE, default_batch_size
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.models.classifier import Classifier, at_least_float32, check_classifier

Images = LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
"""Labelled images, a pair of tensors, or a loader."""


def clean_batches(
    classifier: Classifier, clean: Images, min_per_class: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield clean images and labels on the classifier's device, which is frozen meanwhile.

    Raises:
        UserError: If a class has fewer images than needed, or a label is null or no class of the
            classifier.
    """
    num_classes = check_classifier(classifier).num_classes
    data = tensors_or_loader(clean, num_classes)
    if int(data.labels.min()) < 0:
        raise UserError("a detector is fitted to images of real classes: leave out null images")
    counts = data.labels.bincount(minlength=num_classes)
    if int(counts.min()) < min_per_class:
        raise UserError(
            f"class {int(counts.argmin())} has {int(counts.min())} images, and the detector needs "
            f"at least {min_per_class} per class: give more training images"
        )
    device = classifier.mean.device
    with frozen(classifier), torch.no_grad():
        for start in range(0, len(data), BATCH_SIZE):
            images, labels = data.batch(slice(start, start + BATCH_SIZE))
            size = default_batch_size(images)
            for part, of_part in zip(images.split(size), labels.split(size), strict=True):
                yield part.to(device), of_part.to(device)


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
        found = _inputs(classifier, modules[names[-1]], images)
    elif layer in modules:
        found = _outputs(classifier, modules[layer], images)
    else:
        known = ", ".join(filter(None, modules))
        raise UserError(f"the classifier has no layer {layer!r}: its layers are {known}")
    if not isinstance(found, Tensor) or len(found) != len(images):
        raise UserError(
            f"the layer {layer or 'torch.nn.Linear'} gives no tensor of features per image, or the "
            "network does not run it: name another layer"
        )
    features = found.flatten(2).mean(dim=2) if found.ndim == 4 else found.flatten(1)
    return at_least_float32(features)


def _inputs(classifier: Classifier, module: nn.Module, images: Tensor) -> object:
    found: list[object] = [None]
    hook = module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        classifier(images)
    finally:
        hook.remove()
    return found[-1]


def _outputs(classifier: Classifier, module: nn.Module, images: Tensor) -> object:
    found: list[object] = [None]
    hook = module.register_forward_hook(lambda _, inputs, output: found.append(output))
    try:
        classifier(images)
    finally:
        hook.remove()
    return found[-1]
