from __future__ import annotations

import pytest
import torch

from nullclass.core.errors import UserError
from nullclass.data import load_dataset
from nullclass.data.ramps import NOISE, NUM_TEST, NUM_TRAIN, draw_ramps, ramps

# The report's protocol: label and position to pixels.
CENTRES = {
    (0, 0): (0.666, 0.333, 0.0),
    (0, 1): (0.0, 0.666, 0.333),
    (1, 0): (0.333, 0.666, 0.0),
    (1, 1): (0.0, 0.333, 0.666),
}


def test_ramps_are_the_protocols_four_plus_clipped_noise() -> None:
    data = draw_ramps(8000, torch.Generator().manual_seed(3))
    images, labels = data.batch(slice(None))
    assert images.shape == (8000, 1, 1, 3)
    rows = images.view(-1, 3).double()
    assert 0 <= rows.min() <= rows.max() <= 1
    num_found = 0
    for (label, position), centre in CENTRES.items():
        noise = rows - torch.tensor(centre, dtype=torch.float64)
        is_near = noise.abs().amax(dim=1) <= 0.05 + 1e-6
        assert (labels[is_near] == label).all(), "classes never meet"
        count = int(is_near.sum())
        num_found += count
        assert abs(count - 2000) < 4 * (8000 * 0.25 * 0.75) ** 0.5
        for pixel, values in enumerate(noise[is_near].sort(dim=0).values.unbind(dim=1)):
            low = -0.05
            if pixel == (2 if position == 0 else 0):  # the empty pixel: clipped below
                is_clipped = values == 0
                assert float(is_clipped.double().mean()) == pytest.approx(0.5, abs=0.05)
                values, low = values[~is_clipped], 0.0
            expected = torch.linspace(low, 0.05, len(values))
            assert (values - expected).abs().max() < 0.1 * 1.95 / len(values) ** 0.5, "uniform"
    assert num_found == 8000, "each is near exactly one of them"
    assert NOISE == 0.05


def test_the_dataset_is_always_the_same() -> None:
    first, second = (load_dataset("ramps", validation=0) for _ in range(2))
    assert first.checksum == second.checksum == ramps()[2]
    assert first.checksum.startswith("85af06511461dcab"), "other ramps are another dataset: LOG.md"
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)
    assert (len(first.train), len(first.test)) == (NUM_TRAIN, NUM_TEST) == (32_000, 4_000)
    assert first.image_shape == (1, 1, 3)
    assert first.class_names == ("down", "up")
    assert (first.mean, first.std) == ((0.0,), (1.0,)), "not standardised"
    for images in (first.test.images[:1000], first.train.images[:1000]):
        assert len(images.unique(dim=0)) == 1000
    shared = (first.train.images[:1000, None] == first.test.images[None, :1000]).flatten(2)
    assert not shared.all(dim=2).any(), "no image in both"
    parts = load_dataset("ramps", validation=2000)
    assert parts.validation is not None
    assert (len(parts.train), len(parts.validation)) == (30_000, 2_000)
    with pytest.raises(UserError, match="held out of"):
        load_dataset("ramps", validation=32_000)
