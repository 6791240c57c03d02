"""Images cut into square tiles and put together wrongly (Roos 2020; study-facts section 2, ``s``).

The tile side is drawn from the common divisors of height and width, 1 and the whole image left
out: {2, 4, 7, 14} for MNIST. What differs from the source unless ``faithful``: side and
permutation are drawn for every image, not once a batch, and the permutation that leaves every
tile in its place (1 in 24 for tiles of half the side) is never used, since its image is a real one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.nulls.base import NullImages


class TileShuffleNulls:
    """Null images with all the pixels of a real one, in the wrong places.

    Args:
        sides: Tile sides in pixels to draw from; each must divide the height and the width of the
            images. ``None`` takes all that do, but 1 and the whole image.
        faithful: One side and one permutation for the whole batch, the identity included, as the
            source has it; otherwise one for each image.

    Raises:
        UserError: If a side is not positive; when called, if one does not divide the image.
    """

    needs_image_gradient = False
    is_soft = False

    def __init__(self, sides: Sequence[int] | None = None, faithful: bool = False) -> None:
        if sides is not None and (not sides or min(sides) < 1):
            raise UserError(
                f"the tile sides of shuffled null images must be at least 1 pixel, not {sides}"
            )
        self.sides = None if sides is None else list(sides)
        self.faithful = faithful

    def settings(self) -> dict[str, Any]:
        """Sides and faithful."""
        return {"sides": self.sides, "faithful": self.faithful}

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """See :class:`nullclass.nulls.base.NullSource`."""
        images = images.detach()
        height, width = images.shape[2:]
        sides = proper_sides(height, width) if self.sides is None else self.sides
        for side in sides:
            if height % side or width % side or side * side == height * width:
                raise UserError(
                    f"tiles of {side} pixels do not divide images of {height} x {width} into "
                    "several: name sides that divide both"
                )
        if self.faithful:
            side = sides[int(torch.randint(len(sides), (), generator=generator))]
            num_tiles = (height // side) * (width // side)
            order = torch.randperm(num_tiles, generator=generator)
            return NullImages(shuffle_tiles(images, side, order.expand(len(images), -1)))
        chosen = torch.randint(len(sides), (len(images),), generator=generator)
        shuffled = torch.empty_like(images)
        for place, side in enumerate(sides):
            which = (chosen == place).nonzero().squeeze(1)
            num_tiles = (height // side) * (width // side)
            order = torch.rand(len(which), num_tiles, generator=generator).argsort(dim=1)
            stays = (order == torch.arange(num_tiles)).all(dim=1, keepdim=True)
            order = torch.where(stays, order.roll(1, dims=1), order)
            which = which.to(images.device)
            shuffled[which] = shuffle_tiles(images[which], side, order)
        return NullImages(shuffled)


def proper_sides(height: int, width: int) -> list[int]:
    """Sides that cut an image into several tiles of more than one pixel.

    Raises:
        UserError: If there is none.
    """
    common = math.gcd(height, width)
    sides = [
        side for side in range(2, common + 1) if common % side == 0 and side**2 < height * width
    ]
    if not sides:
        raise UserError(
            f"no square tile of more than one pixel divides images of {height} x {width}: name "
            "the sides (1 shuffles single pixels)"
        )
    return sides


def shuffle_tiles(images: Tensor, side: int, order: Tensor) -> Tensor:
    """Put tile ``order[n, i]`` of image n, counted row by row, at place i.

    Args:
        images: ``(N, C, H, W)``.
        side: Side of a tile in pixels; divides H and W.
        order: ``(N, T)`` permutations of the T tiles.

    Returns:
        ``(N, C, H, W)``, new.
    """
    num, channels, height, width = images.shape
    rows, columns = height // side, width // side
    cut = images.reshape(num, channels, rows, side, columns, side)
    tiles = cut.permute(0, 2, 4, 1, 3, 5).reshape(num, rows * columns, channels * side**2)
    index = order.to(images.device)[:, :, None].expand(-1, -1, tiles.shape[2])
    moved = tiles.gather(1, index).view(num, rows, columns, channels, side, side)
    return moved.permute(0, 3, 1, 4, 2, 5).reshape(num, channels, height, width)
