"""An open set: sources of images of no class, for which null is correct.

A new source is one file and one line in :data:`OOD`.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import pandas as pd
import torch
from torch import Tensor

from nullclass.core.checks import check_choice, check_count
from nullclass.core.devices import images_at_once
from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.data.arrays import checked_images
from nullclass.models.classifier import Classifier
from nullclass.results.schema import OOD_COLUMNS
from nullclass.scoring.ood.blank import blank_images
from nullclass.scoring.ood.fashion_mnist import fashion_mnist_images
from nullclass.scoring.ood.noise import noise_images
from nullclass.scoring.ood.tiles import tile_images
from nullclass.scoring.parts import FEW, NOTHING, Parts
from nullclass.scoring.score import score_batch

__all__ = ["OOD", "OODSource", "make_ood", "score_ood"]


class OODSource(Protocol):
    """Makes images that belong to no class, in the shape of the test images.

    The same generator state gives the same images; the data are not modified.
    """

    def __call__(self, data: LabelledImages, num_images: int, generator: torch.Generator) -> Tensor:
        """Return images ``(num_images, C, H, W)`` float32 in [0,1], on the device of the data.

        Raises:
            UserError: If the source has no images of that shape, or too few.
        """
        ...


OOD: dict[str, OODSource] = {
    "noise": noise_images,
    "blank": blank_images,
    "tiles": tile_images,
    "fashion-mnist": fashion_mnist_images,
}
"""Sources by name."""


def make_ood(
    name: str, data: LabelledImages, num_images: int, generator: torch.Generator
) -> Tensor:
    """Return images of no class from a source in :data:`OOD`.

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
    source = OOD[check_choice("ood", name, OOD)]
    return source(data, check_count("num_images", num_images), generator)


def score_ood(
    model: Classifier,
    images: Tensor,
    name: str,
    *,
    batch_size: int | None = None,
    parts: Parts = NOTHING,
) -> pd.DataFrame:
    """Score images of no class.

    Args:
        model: The model; its mode and gradients are left as they are.
        images: ``(N, C, H, W)`` float32 in [0,1], on any device.
        name: Name of their source in the rows.
        batch_size: Images per forward pass.
        parts: Keeps what is finished, after each batch.

    Returns:
        One row per image: :data:`nullclass.results.schema.OOD_COLUMNS`.

    Raises:
        UserError: If there are no images, they are not in [0,1], or the logits are not finite.
    """
    images = checked_images(images)
    if len(images) == 0:
        raise UserError(f"there are no images from {name} to score: give at least one")
    device = model.mean.device
    parts = parts.of(name, models=[model], images=images[FEW], batch_size=batch_size)
    tables = []
    for number, batch in enumerate(images.split(images_at_once(images.shape))):
        kept = parts.of(f"{number}", images=batch)
        tables.append(kept.keep(partial(score_batch, model, batch.to(device), None, batch_size)))
    rows = pd.concat(tables, ignore_index=True)
    return rows.assign(source=name, image=range(len(rows)))[list(OOD_COLUMNS)]
