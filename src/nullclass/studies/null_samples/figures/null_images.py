"""Null images of the kinds the study trains on: uniform, mixed, shuffled tiles.

Drawn here, by the same rules as :mod:`nullclass.nulls` but without torch, from clean images that a
trial kept.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nullclass.report.blocks import Drawing
from nullclass.report.style import WIDE, sheet
from nullclass.results.store import Run

FILE = "fig_null_image_examples"
SIDES = (1, 2, 4, 7, 14)
"""Tile sides in pixels; the models are trained on all but the first."""
NUM_COLUMNS = 10
SEED = 0
"""Of the random numbers of this figure."""

Images = npt.NDArray[np.float32]


def null_images(run: Run) -> Drawing | None:
    """A row of each kind."""
    examples = next((trial.examples[0] for trial in run.trials if trial.examples), None)
    if examples is None:
        return None
    clean, labels = examples.clean[:, 0], np.array(examples.labels)
    if clean.shape[1] != clean.shape[2]:
        return None
    rng = np.random.default_rng(SEED)
    num = min(NUM_COLUMNS, len(clean))
    rows = {"uniform": rng.random(clean[:num].shape, dtype=np.float32)}
    if len(set(labels)) > 1:
        rows["mixed"] = mixed(clean, labels, rng)[:num]
    for side in SIDES:
        if clean.shape[1] % side == 0:
            rows[f"shuffled, {side}"] = shuffled(clean[:num], side, rng)
    gap = 2
    height = clean.shape[1]
    canvas = np.ones((len(rows) * (height + gap) - gap, num * (height + gap) - gap), np.float32)
    for place, images in enumerate(rows.values()):
        for column, image in enumerate(images):
            top, left = place * (height + gap), column * (height + gap)
            canvas[top : top + height, left : left + height] = image
    scale = (WIDE - 1) / canvas.shape[1]
    alt = f"null images in rows: {', '.join(rows)}"
    with sheet(FILE, alt, (WIDE, scale * canvas.shape[0] + 0.1)) as (figure, drawn):
        axis = figure.subplots()
        axis.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="none")
        middles = [place * (height + gap) + height / 2 for place in range(len(rows))]
        axis.set_yticks(middles, list(rows))
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return Drawing(
        "Null images",
        "What the models learn to call null; drawn for this figure from the first test images that "
        f"the run kept (random seed {SEED}), by the rules of the training. Uniform: every pixel "
        "from U[0,1]. Mixed: the mean of two images of different classes. Shuffled: square tiles "
        "of the given side, in pixels, in random order; training draws the side from 2, 4, 7 and "
        "14. No model and no attack is involved.",
        drawn,
    )


def mixed(images: Images, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> Images:
    """The mean of each image ``(N, H, W)`` and a random one of another class."""
    partners = [rng.choice(np.flatnonzero(labels != label)) for label in labels]
    return ((images + images[partners]) / 2).astype(np.float32)


def shuffled(images: Images, side: int, rng: np.random.Generator) -> Images:
    """Images ``(N, H, W)`` with their tiles in random order, one order for all."""
    num, height, width = images.shape
    rows, columns = height // side, width // side
    cut = images.reshape(num, rows, side, columns, side)
    tiles = cut.transpose(0, 1, 3, 2, 4).reshape(num, rows * columns, side, side)
    moved = tiles[:, rng.permutation(rows * columns)].reshape(num, rows, columns, side, side)
    return moved.transpose(0, 1, 3, 2, 4).reshape(num, height, width)
