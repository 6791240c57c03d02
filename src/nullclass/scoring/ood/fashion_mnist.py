"""The first test images of Fashion-MNIST (Xiao et al. 2017), for models of 28 x 28 images."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages, load_dataset

NAME = "fashion-mnist"
SHAPE = (1, 28, 28)


def fashion_mnist_images(
    data: LabelledImages, num_images: int, generator: torch.Generator
) -> Tensor:
    """Return images in the order of the file; see :class:`nullclass.scoring.ood.OODSource`.

    Raises:
        UserError: If the test images have another shape or are Fashion-MNIST itself, there are
            fewer than ``num_images``, or the dataset cannot be loaded.
    """
    shape = tuple(data.images.shape[1:])
    if shape != SHAPE:
        raise UserError(
            f"Fashion-MNIST has images of {SHAPE}, the test images are {shape}: leave it out"
        )
    test, _ = load_dataset(NAME, validation=0).test.batch(slice(None))
    first = data.batch([0])[0].to(test.device)
    if bool((test == first).flatten(1).all(dim=1).any()):
        raise UserError(
            "the test images are Fashion-MNIST itself, whose images have classes here: leave it out"
        )
    if num_images > len(test):
        raise UserError(f"Fashion-MNIST has {len(test)} test images, not {num_images}: use fewer")
    return test[:num_images].to(data.images.device)
