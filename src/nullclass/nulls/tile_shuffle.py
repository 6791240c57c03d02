"""Images cut into square tiles in random order, labelled null (Roos 2020, null samples "s").

The tile side is a common divisor of height and width, except 1 and the side of a square image:
{2, 4, 7, 14} for MNIST. Unlike in the source, side and permutation are drawn for every image
instead of once per batch, and the identity permutation (1 in 24 for tiles of half the side) is
never used, because its result is a real image. ``faithful=True`` restores both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.nulls.base import NullImages, NullSource


@dataclass(frozen=True)
class TileShuffleNulls(NullSource):
    """Null images with all the pixels of a real image, in the wrong places.

    Raises:
        UserError: If a side is not positive; when called, if a side does not divide the image.
    """

    sides: Sequence[int] | None = None
    """Tile sides in pixels to draw from; ``None`` uses :func:`tile_sides`."""
    faithful: bool = False
    """Use one side and one permutation per batch, possibly the identity, as the source does."""

    def __post_init__(self) -> None:
        """Check the sides."""
        if self.sides is None:
            return
        if not isinstance(self.sides, Sequence) or not self.sides or min(self.sides) < 1:
            raise UserError(f"tile sides must be a list of at least 1 pixel each, not {self.sides}")

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Return the shuffled images (:class:`nullclass.nulls.base.NullSource`)."""
        images = images.detach()
        height, width = images.shape[2:]
        sides = tile_sides(height, width) if self.sides is None else self.sides
        for side in sides:
            if height % side or width % side or side * side == height * width:
                raise UserError(
                    f"tiles of {side} pixels do not divide images of {height} x {width} into "
                    "several: use sides that divide both"
                )
        if self.faithful:
            side = sides[int(torch.randint(len(sides), (), generator=generator))]
            order = torch.randperm((height // side) * (width // side), generator=generator)
            return NullImages(shuffle_tiles(images, side, order.expand(len(images), -1)))
        chosen = torch.randint(len(sides), (len(images),), generator=generator)
        shuffled = torch.empty_like(images)
        for choice, side in enumerate(sides):
            index = (chosen == choice).nonzero().squeeze(1)
            num_tiles = (height // side) * (width // side)
            order = torch.rand(len(index), num_tiles, generator=generator).argsort(dim=1)
            is_identity = (order == torch.arange(num_tiles)).all(dim=1, keepdim=True)
            order = torch.where(is_identity, order.roll(1, dims=1), order)
            index = index.to(images.device)
            shuffled[index] = shuffle_tiles(images[index], side, order)
        return NullImages(shuffled)


def tile_sides(height: int, width: int) -> list[int]:
    """Return the sides that cut an image into several tiles of more than one pixel.

    Raises:
        UserError: If there is none.
    """
    common = math.gcd(height, width)
    sides = [
        side for side in range(2, common + 1) if common % side == 0 and side**2 < height * width
    ]
    if not sides:
        raise UserError(
            f"no square tile of more than one pixel divides images of {height} x {width}: set "
            "the sides (1 shuffles single pixels)"
        )
    return sides


def shuffle_tiles(images: Tensor, side: int, order: Tensor) -> Tensor:
    """Move tile ``order[n, i]`` of image n, counted row by row, to position i.

    Args:
        images: ``(N, C, H, W)``.
        side: Side of a tile in pixels; divides H and W.
        order: ``(N, T)`` permutations of the T tiles.

    Returns:
        ``(N, C, H, W)``, a new tensor.
    """
    num, channels, height, width = images.shape
    rows, columns = height // side, width // side
    grid = images.reshape(num, channels, rows, side, columns, side)
    tiles = grid.permute(0, 2, 4, 1, 3, 5).reshape(num, rows * columns, channels * side**2)
    index = order.to(images.device)[:, :, None].expand(-1, -1, tiles.shape[2])
    moved = tiles.gather(1, index).view(num, rows, columns, channels, side, side)
    return moved.permute(0, 3, 1, 4, 2, 5).reshape(num, channels, height, width)
