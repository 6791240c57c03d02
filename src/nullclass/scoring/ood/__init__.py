"""Images of no class, for which null is right. A new source: one file, one line in :data:`OOD`."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.scoring.ood.base import OODSource
from nullclass.scoring.ood.blank import blank_images
from nullclass.scoring.ood.fashion_mnist import clothes
from nullclass.scoring.ood.noise import noise_images
from nullclass.scoring.ood.scoring import score_ood
from nullclass.scoring.ood.tiles import collages

__all__ = ["OOD", "OODSource", "make_ood", "score_ood"]

OOD: dict[str, OODSource] = {
    "noise": noise_images,
    "blank": blank_images,
    "tiles": collages,
    "fashion-mnist": clothes,
}
"""Name to a maker of images, from the test data, how many, and a generator."""


def check_ood(name: str) -> None:
    """Refuse a source that does not exist, before anything is attacked.

    Raises:
        UserError: If it is unknown.
    """
    if name not in OOD:
        raise UserError(f"there is no source of images {name!r}: choose one of {', '.join(OOD)}")


def make_ood(
    name: str, data: LabelledImages, num_images: int, generator: torch.Generator
) -> Tensor:
    """Images of no class.

    Args:
        name: A name in :data:`OOD`.
        data: The test images, which give the shape and, for some, the pixels.
        num_images: How many to make.
        generator: Where randomness comes from.

    Returns:
        ``(num_images, C, H, W)`` float32 in [0,1], on the device of the data.

    Raises:
        UserError: If the source is unknown, no image is asked for, or with the source's own reason
            to refuse.
    """
    check_ood(name)
    if num_images < 1:
        raise UserError(f"num_images must be at least 1, not {num_images}")
    return OOD[name](data, num_images, generator)
