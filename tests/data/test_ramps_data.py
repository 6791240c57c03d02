from __future__ import annotations

import pytest
import torch

from nullclass.core.errors import UserError
from nullclass.data import load_dataset
from nullclass.data.ramps import CLASS_NAMES, NOISE, NUM_TEST, NUM_TRAIN, draw_ramps, ramps

# The report's protocol: the two pixels of each class, and where they may stand.
CENTRES = {
    (0, 0): (0.666, 0.333, 0.0),
    (0, 1): (0.0, 0.666, 0.333),
    (1, 0): (0.333, 0.666, 0.0),
    (1, 1): (0.0, 0.333, 0.666),
}


def test_every_ramp_is_one_of_the_protocols_four_plus_noise_that_is_clipped() -> None:
    data = draw_ramps(8000, torch.Generator().manual_seed(3))
    images, labels = data.batch(slice(None))
    assert images.shape == (8000, 1, 1, 3)
    assert (data.num_classes, images.dtype, labels.dtype) == (2, torch.float32, torch.int64)
    rows = images.view(-1, 3).double()
    assert rows.min() >= 0
    assert rows.max() <= 1
    counts = {}
    noise = []
    for (label, place), centre in CENTRES.items():
        far = (rows - torch.tensor(centre, dtype=torch.float64)).abs().amax(dim=1)
        is_here = far <= 0.05 + 1e-6
        assert (labels[is_here] == label).all(), "classes never meet"
        counts[label, place] = int(is_here.sum())
        noise.append(rows[is_here] - torch.tensor(centre, dtype=torch.float64))
    assert sum(counts.values()) == 8000, "each is near exactly one of them"
    assert all(abs(count - 2000) < 4 * (8000 * 0.25 * 0.75) ** 0.5 for count in counts.values())
    # Noise on the ramp's own pixels is uniform; on the empty one its lower half is clipped away.
    for (_, place), deviations in zip(CENTRES, noise, strict=True):
        empty = 2 if place == 0 else 0
        for pixel in range(3):
            values = deviations[:, pixel].sort().values
            if pixel == empty:
                clipped = values == 0
                assert float(clipped.double().mean()) == pytest.approx(0.5, abs=0.05)
                values = values[~clipped]
                expected = torch.linspace(0, 0.05, len(values))
            else:
                expected = torch.linspace(-0.05, 0.05, len(values))
            assert (values - expected).abs().max() < 0.1 * 1.95 / len(values) ** 0.5
    assert NOISE == 0.05
    assert CLASS_NAMES == ("down", "up")


def test_down_falls_and_up_rises() -> None:
    images, labels = draw_ramps(500, torch.Generator().manual_seed(0)).batch(slice(None))
    rows = images.view(-1, 3)
    at_left = rows[:, 2] < rows[:, 0]
    first = torch.where(at_left, rows[:, 0], rows[:, 1])
    second = torch.where(at_left, rows[:, 1], rows[:, 2])
    assert torch.equal(second > first, labels == 1)


def test_the_dataset_is_the_same_every_time_and_needs_no_files() -> None:
    first, second = (load_dataset("ramps", validation=0) for _ in range(2))
    assert first.checksum == second.checksum
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)
    assert (len(first.train), len(first.test)) == (NUM_TRAIN, NUM_TEST) == (32_000, 4_000)
    assert first.image_shape == (1, 1, 3)
    assert (first.num_classes, first.class_names) == (2, ("down", "up"))
    assert (first.mean, first.std) == (0.0, 1.0), "pixels as they are"
    assert first.validation is None
    assert first.checksum == ramps()[2]
    # One epoch of the source: 1000 steps of 32 images.
    assert len(first.train) == 1000 * 32
    for images in (first.test.images[:1000], first.train.images[:1000]):
        assert len(images.unique(dim=0)) == 1000
    shared = (first.train.images[:1000, None] == first.test.images[None, :1000]).flatten(2)
    assert not shared.all(dim=2).any(), "no image in both"


def test_the_checksum_is_of_these_numbers() -> None:
    assert ramps()[2].startswith(CHECKSUM), "other ramps are another dataset: say so in LOG.md"


CHECKSUM = "85af06511461dcab"


def test_ramps_are_split_like_any_dataset() -> None:
    whole = load_dataset("ramps", validation=0)
    parts = load_dataset("ramps", validation=2000, seed=1)
    assert parts.validation is not None
    assert (len(parts.train), len(parts.validation)) == (30_000, 2_000)
    assert parts.checksum == whole.checksum
    everything = torch.cat([parts.train.images, parts.validation.images]).view(-1, 3)
    assert torch.equal(
        everything.sum(dim=1).sort().values, whole.train.images.view(-1, 3).sum(dim=1).sort().values
    )
    with pytest.raises(UserError, match="cannot hold out"):
        load_dataset("ramps", validation=32_000)
