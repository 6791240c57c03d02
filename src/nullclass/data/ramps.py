"""The report's toy dataset: ramps of two pixels, up or down, in images of three (Roos 2020).

Class 0 is the down ramp [.666, .333], class 1 the up ramp [.333, .666], at position 0 or 1; the
third pixel is 0. U(-.05, .05) is added to every pixel, and pixels are clipped to [0,1]. The report
draws new images for every batch; here a training set of the size of one epoch is drawn once.
"""

from __future__ import annotations

import hashlib

import torch

from nullclass.data.arrays import LabelledImages

NOISE = 0.05
"""Half the width of the noise on a pixel."""

RAMPS = ((0.666, 0.333), (0.333, 0.666))
"""The two pixels of a down ramp (class 0) and of an up ramp (class 1)."""

CLASS_NAMES: tuple[str, ...] = ("down", "up")
NUM_TRAIN, NUM_TEST = 32_000, 4_000
_SEED = 2020


def draw_ramps(num: int, generator: torch.Generator) -> LabelledImages:
    """Draw ramps ``(N, 1, 1, 3)`` with their labels."""
    labels = torch.randint(2, (num,), generator=generator)
    positions = torch.randint(2, (num,), generator=generator)
    images = torch.zeros(num, 3)
    rows = torch.arange(num)
    ramps = torch.tensor(RAMPS)[labels]
    images[rows, positions] = ramps[:, 0]
    images[rows, positions + 1] = ramps[:, 1]
    images += (2 * torch.rand(num, 3, generator=generator) - 1) * NOISE
    return LabelledImages(images.clamp(0, 1).view(num, 1, 1, 3), labels, 2)


def ramps() -> tuple[LabelledImages, LabelledImages, str]:
    """Return training and test images, always the same, and their SHA-256."""
    generator = torch.Generator().manual_seed(_SEED)
    train, test = draw_ramps(NUM_TRAIN, generator), draw_ramps(NUM_TEST, generator)
    parts = (train.batch(slice(None)), test.batch(slice(None)))
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for part in parts for t in part))
    return train, test, digest.hexdigest()
