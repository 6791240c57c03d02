"""Collages of tiles of the test images themselves: their strokes, none of their shapes.

As :mod:`nullclass.nulls.tile_shuffle`, but every tile is drawn from an image of its own and never
from the place where it is put. The pixels of a class cannot tell such an image from a real one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.nulls.tile_shuffle import tile_sides


def collages(data: LabelledImages, num_images: int, generator: torch.Generator) -> Tensor:
    """Collages, each with a tile side of its own; see
    :class:`nullclass.scoring.ood.base.OODSource`.

    Raises:
        UserError: If there is one image only, or no tile divides the images.
    """
    if len(data) < 2:
        raise UserError("collages of tiles need at least two test images to take tiles from")
    height, width = data.images.shape[2:]
    try:
        sides = tile_sides(height, width)
    except UserError:
        raise UserError(
            f"images of {height} x {width} cannot be cut into square tiles of more than one pixel: "
            "leave the tiles out"
        ) from None
    device = data.images.device
    chosen = torch.randint(
        len(sides), (num_images,), generator=generator, device=generator.device
    ).to(device)
    images = data.as_float().images
    made = torch.empty((num_images, *images.shape[1:]), device=device)
    for place, side in enumerate(sides):
        which = (chosen == place).nonzero().squeeze(1)
        made[which] = _collage(images, side, len(which), generator)
    return made


def _collage(images: Tensor, side: int, num: int, generator: torch.Generator) -> Tensor:
    """Put tiles of several images ``(M, C, H, W)`` together, ``(num, C, H, W)``."""
    device = images.device
    height, width = images.shape[2:]
    columns = width // side
    num_tiles = (height // side) * columns
    shape = (num, num_tiles)

    def draw(low: int, high: int) -> Tensor:
        drawn = torch.randint(low, high, shape, generator=generator, device=generator.device)
        return drawn.to(device)

    owners = draw(0, len(images))
    # The second tile at the latest is another image's.
    is_same = owners[:, 1] == owners[:, 0]
    owners[:, 1] = torch.where(is_same, (owners[:, 0] + 1) % len(images), owners[:, 1])
    places = (torch.arange(num_tiles, device=device) + draw(1, num_tiles)) % num_tiles

    rows_at = torch.arange(height, device=device)[:, None]
    columns_at = torch.arange(width, device=device)[None, :]
    tile = (rows_at // side) * columns + columns_at // side
    taken = places[:, tile]
    from_row = (taken // columns) * side + rows_at % side
    from_column = (taken % columns) * side + columns_at % side
    return images[owners[:, tile], :, from_row, from_column].permute(0, 3, 1, 2)
