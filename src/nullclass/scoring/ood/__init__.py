"""An open set: sources of images of no class, for which null is correct.

A new source is one file and one line in :data:`OOD`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.scoring.ood.base import OODSource
from nullclass.scoring.ood.blank import blank_images
from nullclass.scoring.ood.fashion_mnist import fashion_mnist_images
from nullclass.scoring.ood.noise import noise_images
from nullclass.scoring.ood.scoring import score_ood
from nullclass.scoring.ood.tiles import tile_images

__all__ = ["OOD", "OODSource", "check_ood", "make_ood", "score_ood"]

OOD: dict[str, OODSource] = {
    "noise": noise_images,
    "blank": blank_images,
    "tiles": tile_images,
    "fashion-mnist": fashion_mnist_images,
}
"""Sources by name."""


def check_ood(name: str) -> None:
    """Refuse an unknown source.

    Raises:
        UserError: If it is unknown.
    """
    if name not in OOD:
        raise UserError(f"there is no source of images {name!r}: choose one of {', '.join(OOD)}")


def make_ood(
    name: str, data: LabelledImages, num_images: int, generator: torch.Generator
) -> Tensor:
    """Images of no class from a source in :data:`OOD`.

    Args:
        name: Name of the source.
        data: The test images: they give the shape and, for some sources, the pixels.
        num_images: How many to make.
        generator: Random numbers.

    Returns:
        ``(num_images, C, H, W)`` float32 in [0,1], on the device of the data.

    Raises:
        UserError: If the source is unknown, ``num_images`` is below 1, or the source does not
            suit the data.
    """
    check_ood(name)
    if num_images < 1:
        raise UserError(f"num_images must be at least 1, not {num_images}")
    return OOD[name](data, num_images, generator)
