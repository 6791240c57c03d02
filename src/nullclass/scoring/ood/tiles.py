"""Images assembled from tiles of the test images: their local texture without their shapes.

Unlike :mod:`nullclass.nulls.tile_shuffle`, each tile comes from a random image, and never from the
position where it is placed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.data import LabelledImages
from nullclass.data.arrays import to_float
from nullclass.nulls.tile_shuffle import tile_sides

POOL_BYTES = 2**28
"""The tiles come from the first images, of at most so many bytes, all in memory."""


def tile_images(data: LabelledImages, num_images: int, generator: torch.Generator) -> Tensor:
    """Return images with one random tile size each; see :class:`nullclass.scoring.ood.OODSource`.

    Raises:
        UserError: If there is only one test image, or no tile size divides the images.
    """
    if len(data) < 2:
        raise UserError("tiles need at least two test images")
    height, width = data.images.shape[2:]
    try:
        sides = tile_sides(height, width)
    except UserError:
        raise UserError(
            f"images of {height} x {width} cannot be cut into square tiles of more than one pixel: "
            "leave the tiles out"
        ) from None
    # All of the images, unless they are large and many.
    most = max(2, POOL_BYTES // data.images.shape[1:].numel())
    images = data.images[:most]
    device = images.device
    chosen = torch.randint(
        len(sides), (num_images,), generator=generator, device=generator.device
    ).to(device)
    assembled = torch.empty((num_images, *images.shape[1:]), device=device)
    for number, side in enumerate(sides):
        indices = (chosen == number).nonzero().squeeze(1)
        assembled[indices] = to_float(_assemble(images, side, len(indices), generator))
    return assembled


def _assemble(images: Tensor, side: int, num: int, generator: torch.Generator) -> Tensor:
    """Return ``(num, C, H, W)`` from random tiles of images ``(M, C, H, W)``."""
    device = images.device
    height, width = images.shape[2:]
    columns = width // side
    num_tiles = (height // side) * columns
    shape = (num, num_tiles)

    def draw(low: int, high: int) -> Tensor:
        numbers = torch.randint(low, high, shape, generator=generator, device=generator.device)
        return numbers.to(device)

    owners = draw(0, len(images))
    # At least the second tile comes from another image than the first.
    is_same = owners[:, 1] == owners[:, 0]
    owners[:, 1] = torch.where(is_same, (owners[:, 0] + 1) % len(images), owners[:, 1])
    origins = (torch.arange(num_tiles, device=device) + draw(1, num_tiles)) % num_tiles

    rows_at = torch.arange(height, device=device)[:, None]
    columns_at = torch.arange(width, device=device)[None, :]
    tile = (rows_at // side) * columns + columns_at // side
    origin = origins[:, tile]
    from_row = (origin // columns) * side + rows_at % side
    from_column = (origin % columns) * side + columns_at % side
    return images[owners[:, tile], :, from_row, from_column].permute(0, 3, 1, 2)
