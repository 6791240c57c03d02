"""Shuffled tiles, cut out one at a time and compared."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from worlds import seeded

from nullclass.core.errors import UserError
from nullclass.nulls import TileShuffleNulls
from nullclass.nulls.tile_shuffle import shuffle_tiles, tile_sides


def tiles_of(image: Tensor, side: int) -> list[bytes]:
    """The tiles of one image, row by row, cut out one at a time."""
    _, height, width = image.shape
    pixels = image.numpy()
    return [
        pixels[:, top : top + side, left : left + side].tobytes()
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def sides_used(image: Tensor, shuffled: Tensor, sides: list[int]) -> list[int]:
    """Sides of which the one image's tiles are a permutation of the other's."""
    return [
        side for side in sides if sorted(tiles_of(image, side)) == sorted(tiles_of(shuffled, side))
    ]


SHAPES = [((3, 12, 8), [2, 4]), ((1, 28, 28), [2, 4, 7, 14]), ((1, 6, 12), [2, 3, 6])]


@pytest.mark.parametrize(("shape", "sides"), SHAPES)
def test_every_shuffled_image_has_the_tiles_of_its_own_image_never_all_in_place(
    shape: tuple[int, int, int], sides: list[int]
) -> None:
    assert tile_sides(*shape[1:]) == sides
    images = torch.rand(60, *shape, generator=seeded(4))
    nulls = TileShuffleNulls()(images, torch.zeros(60), seeded(5)).images
    orders = set()
    for image, shuffled in zip(images, nulls, strict=True):
        found = sides_used(image, shuffled, sides)
        assert found, "its own tiles, each as often as before"
        assert not torch.equal(image, shuffled)
        tiles = tiles_of(image, max(found))
        orders.add((max(found), *(tiles.index(tile) for tile in tiles_of(shuffled, max(found)))))
    assert {order[0] for order in orders} == set(sides), "every side is drawn"
    assert len(orders) > 25, "each image has its own permutation"


@pytest.mark.parametrize(("shape", "sides"), SHAPES)
def test_faithful_shuffling_has_one_side_and_one_permutation_a_batch(
    shape: tuple[int, int, int], sides: list[int]
) -> None:
    images = torch.rand(3, *shape, generator=seeded(4))
    source, generator = TileShuffleNulls(faithful=True), seeded(5)
    sides_seen = set()
    for _ in range(25):
        nulls = source(images, torch.zeros(3), generator).images
        sides_of = [
            sides_used(image, null, sides) for image, null in zip(images, nulls, strict=True)
        ]
        assert sides_of[0]
        assert all(found == sides_of[0] for found in sides_of)
        side = max(sides_of[0])
        orders = {
            tuple(tiles_of(image, side).index(tile) for tile in tiles_of(null, side))
            for image, null in zip(images, nulls, strict=True)
        }
        assert len(orders) == 1
        sides_seen.add(side)
    assert sides_seen == set(sides)


def test_the_identity_is_drawn_in_a_faithful_shuffle_and_never_otherwise() -> None:
    images = torch.rand(2, 1, 2, 4, generator=seeded(4))  # two tiles
    labels, generator = torch.zeros(2), seeded(5)
    faithful = TileShuffleNulls([2], faithful=True)
    drawn = [faithful(images, labels, generator).images for _ in range(200)]
    stayed = sum(torch.equal(nulls, images) for nulls in drawn)
    assert 70 < stayed < 130, "one permutation of two"
    swapped = torch.cat([images[..., 2:], images[..., :2]], dim=3)
    for _ in range(50):
        assert torch.equal(TileShuffleNulls([2])(images, labels, generator).images, swapped)


def test_permutations_of_tiles_are_uniform() -> None:
    images = torch.rand(1, 1, 4, 4, generator=seeded(4))
    nulls = TileShuffleNulls([2])(
        images.expand(4600, -1, -1, -1), torch.zeros(4600), seeded(8)
    ).images
    tiles = tiles_of(images[0], 2)
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for null in nulls:
        counts[tuple(tiles.index(tile) for tile in tiles_of(null, 2))] += 1
    assert counts.pop((0, 1, 2, 3)) == 0
    # Of 24 permutations the one forbidden gives its share to the turn by one.
    expected = {order: 4600 / 24 * (2 if order == (3, 0, 1, 2) else 1) for order in counts}
    squares = sum((counts[o] - expected[o]) ** 2 / expected[o] for o in counts)
    assert squares < 45, "chi-square with 22 degrees of freedom, 0.3 %"


def test_tiles_go_where_the_order_says() -> None:
    image = torch.arange(8.0).view(1, 1, 2, 4).expand(1, 2, 2, 4) / 8
    moved = shuffle_tiles(image, 1, torch.tensor([[3, 2, 1, 0, 7, 6, 5, 4]]))
    assert torch.equal(moved, image.flip(3))
    moved = shuffle_tiles(image, 2, torch.tensor([[1, 0]]))
    assert torch.equal(moved, torch.cat([image[..., 2:], image[..., :2]], dim=3))


def test_single_pixels_of_a_row_are_shuffled_when_named() -> None:
    images = torch.rand(50, 1, 1, 3, generator=seeded(4))
    nulls = TileShuffleNulls([1], faithful=True)(images, torch.zeros(50), seeded(1)).images
    assert torch.equal(nulls.sort(dim=3).values, images.sort(dim=3).values)
    assert not torch.equal(nulls, images)


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("sides", [[4], [3, 5], [12], [2, 8]])
def test_sides_that_do_not_divide_into_several_are_refused(
    sides: list[int], faithful: bool
) -> None:
    images = torch.zeros(2, 1, 12, 12) if sides == [12] else torch.zeros(2, 1, 6, 12)
    with pytest.raises(UserError, match=r"do not divide images of .* into several"):
        TileShuffleNulls(sides, faithful)(images, torch.zeros(2))


def test_images_without_tiles_are_refused() -> None:
    for size in ((1, 3), (5, 5), (4, 9), (7, 7)):
        with pytest.raises(UserError, match="no square tile"):
            TileShuffleNulls()(torch.zeros(2, 1, *size), torch.zeros(2))
