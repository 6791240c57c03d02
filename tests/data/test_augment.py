"""Random transformations: within their limits, inside the box, repeatable."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training_cases import RECIPE, fresh_model, learnable_images

from nullclass.data import augment
from nullclass.data.augment import ANGLE, SHIFT, STRETCH, flipped, jittered
from nullclass.training.config import TrainConfig
from nullclass.training.loop import train


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dots(num: int, size: int = 29, row: int = 14, column: int = 14) -> Tensor:
    """Images of one bright pixel."""
    images = torch.zeros(num, 1, size, size)
    images[:, :, row, column] = 1.0
    return images


def centres(images: Tensor) -> Tensor:
    """Centre of each image's brightness: row and column."""
    share = images[:, 0] / images[:, 0].sum(dim=(1, 2), keepdim=True)
    rows, columns = torch.arange(images.shape[2]), torch.arange(images.shape[3])
    return torch.stack([(share.sum(2) * rows).sum(1), (share.sum(1) * columns).sum(1)], dim=1)


def test_images_that_are_not_square_move_as_in_a_square() -> None:
    images = torch.zeros(20, 3, 24, 40)
    images[:, :, 6:18, 6:34] = torch.rand(20, 3, 12, 28, generator=generator(1))
    square = F.pad(images, (0, 0, 8, 8))
    expected = jittered(square, 2.0, generator())[:, :, 8:32]
    assert torch.allclose(jittered(images, 2.0, generator()), expected, atol=1e-4)
    assert not torch.allclose(expected, images, atol=0.1)


def test_no_strength_is_the_same_images() -> None:
    images = torch.rand(5, 3, 9, 12, generator=generator())
    assert torch.allclose(jittered(images, 0.0, generator()), images, atol=1e-5)


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(2000, 3, 2, 5, generator=generator())
    changed = flipped(images, generator(1))
    is_mirrored = (changed == images.flip(3)).flatten(1).all(dim=1)
    assert torch.equal(changed[~is_mirrored], images[~is_mirrored])
    assert float(is_mirrored.double().mean()) == pytest.approx(0.5, abs=0.05)


def test_shifts_are_uniform() -> None:
    moved = centres(jittered(dots(2000), 1.0, generator())) - 14
    assert float(moved.abs().max()) <= SHIFT * (1 + ANGLE + STRETCH) / (1 - STRETCH)
    assert float(moved.abs().max()) > 0.9 * SHIFT
    assert torch.allclose(moved.mean(dim=0), torch.zeros(2), atol=0.05)
    assert float(moved.std()) == pytest.approx(SHIFT / math.sqrt(3), rel=0.06)


def test_rotations_and_stretches_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(augment, "SHIFT", 0.0)
    moved = centres(jittered(dots(2000, column=24), 1.0, generator())) - 14
    across, step_along = moved[:, 0].abs(), moved[:, 1]
    # The inverse of a map that rotates, stretches and shears by these amounts.
    most = 10 * (math.sin(ANGLE) + STRETCH) / (1 - STRETCH) ** 2 + 0.3
    assert 0.7 * 10 * math.sin(ANGLE) < float(across.max()) < most
    assert 10 * (1 - 2 * STRETCH) - 0.5 < float(step_along.min()) < 9.6
    assert 10.4 < float(step_along.max()) < 10 / (1 - 2 * STRETCH) + 0.5


def test_images_stay_in_the_box_and_the_generator_decides() -> None:
    images = torch.rand(6, 1, 8, 8, generator=generator())
    before = images.clone()
    one = jittered(images, 1.0, generator(3))
    assert torch.equal(images, before)
    assert bool(((one >= 0) & (one <= 1)).all())
    assert torch.equal(one, jittered(images, 1.0, generator(3)))
    assert not torch.equal(one, jittered(images, 1.0, generator(4)))


def test_training_on_transformed_images_is_repeatable() -> None:
    def trained(strength: float) -> Tensor:
        model = fresh_model(has_null=False)
        recipe = replace(RECIPE, jitter=strength, flip=strength > 0, epochs=1)
        train(model, learnable_images(), TrainConfig(recipe, 5))
        weight: Tensor = model.body.output.weight.detach()
        return weight

    assert torch.equal(trained(1.0), trained(1.0))
    assert not torch.equal(trained(1.0), trained(0.0))
