"""Figures of images of the study ``null-samples``: null images, adversarial samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nullclass.core.outcomes import outcome_name
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.formatting import attack_name, eps_text
from nullclass.report.measures import Measures
from nullclass.report.pictures import answer_text
from nullclass.report.style import OUTCOME_COLOURS, OUTCOME_LEGEND, WIDE, sheet
from nullclass.results.schema import Examples
from nullclass.studies.null_samples.config import (
    BASE,
    SHOWN,
    TRANSFER_AT_THRESHOLD,
    TRANSFER_BEYOND,
)

BORDER, TITLE, GAP, COLUMNS = 2, 12, 4, 6
"""Of the sheets of images: pixels of a border, above and between images; images per row."""
SIDES = (1, 2, 4, 7, 14)
"""Tile sides in pixels; training uses all but the first."""
SEED = 0
"""Of the random numbers of the figure of null images."""

Images = npt.NDArray[np.float32]


def null_images(measures: Measures) -> Drawing | None:
    """One row per kind of null image, drawn by the rules of :mod:`nullclass.nulls` in NumPy."""
    examples = next((trial.examples[0] for trial in measures.run.trials if trial.examples), None)
    if examples is None:
        return None
    clean, labels = examples.clean[:, 0], np.array(examples.labels)
    rng, num, side = np.random.default_rng(SEED), min(10, len(clean)), clean.shape[1]
    rows = {
        "uniform": rng.random(clean[:num].shape, dtype=np.float32),
        "mixed": mixed(clean, labels, rng)[:num],
    }
    for tile in SIDES:
        rows[f"shuffled, {tile}"] = shuffled(clean[:num], tile, rng)
    step = side + 2
    images = np.pad(np.concatenate([*rows.values()]), ((0, 0), (0, 2), (0, 2)), constant_values=1)
    canvas = _tiled(images, num)
    alt = f"null images in rows: {', '.join(rows)}"
    size = (WIDE, (WIDE - 1) * canvas.shape[0] / canvas.shape[1] + 0.1)
    with sheet("fig_null_image_examples", alt, size) as (figure, drawn):
        axis = figure.subplots()
        axis.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="none")
        axis.set_yticks([step * (row + 0.5) for row in range(len(rows))], list(rows))
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return Drawing(
        "Null images",
        "The images that the models learn as null, drawn for this figure from the run's first "
        f"example images (random seed {SEED}). Uniform: each pixel from U[0,1]. Mixed: the mean of "
        "two images of different classes. Shuffled: square tiles of the given side, in pixels, in "
        "random order; training draws the side from 2, 4, 7 and 14. No model, no attack.",
        drawn,
    )


def _tiled(images: npt.NDArray[Any], num_columns: int) -> npt.NDArray[Any]:
    """Images ``(N, H, W, ...)`` as one, in rows of ``num_columns``."""
    num, height, width, *channels = images.shape
    grid = images.reshape(num // num_columns, num_columns, height, width, *channels)
    return grid.swapaxes(1, 2).reshape(-1, num_columns * width, *channels)


def mixed(images: Images, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> Images:
    """Return the mean of each image ``(N, H, W)`` and a random one of another class."""
    partners = [rng.choice(np.flatnonzero(labels != label)) for label in labels]
    return ((images + images[partners]) / 2).astype(np.float32)


def shuffled(images: Images, side: int, rng: np.random.Generator) -> Images:
    """Return images ``(N, H, W)`` with their tiles in random order, one order for all."""
    num, height, width = images.shape
    rows, columns = height // side, width // side
    cut = images.reshape(num, rows, side, columns, side)
    tiles = cut.transpose(0, 1, 3, 2, 4).reshape(num, rows * columns, side, side)
    moved = tiles[:, rng.permutation(rows * columns)].reshape(num, rows, columns, side, side)
    return moved.transpose(0, 1, 3, 2, 4).reshape(num, height, width)


def adversarial_samples(measures: Measures) -> Drawing | None:
    """Sheets of adversarial images of the first set, one per model."""
    trials = [t for t in measures.run.trials if t.selection == measures.selection and t.examples]
    seed = min((trial.seed for trial in trials), default=None)
    panels = [
        _images_sheet(examples, trial.model)
        for attack in (TRANSFER_AT_THRESHOLD, TRANSFER_BEYOND)
        for trial in trials
        for examples in trial.examples
        if trial.seed == seed and examples.attack == attack
    ]
    if not panels:
        return None
    return Drawing(
        "Adversarial samples",
        f"{attack_name(TRANSFER_AT_THRESHOLD)}: one gradient-sign step on {BASE} of the same set, "
        f"with the smallest ε (L∞, pixel units) that fools {BASE}. The first {SHOWN} images of set "
        f"{seed} that have such a step; “1.5 thresholds” uses 1.5 times that ε. Above each image: "
        "true class → answer, probability of the answer.",
        panels,
        OUTCOME_LEGEND,
        is_folded=True,
    )


def _images_sheet(examples: Examples, model: str) -> Panel:
    from matplotlib.colors import to_rgb

    name, heading = "baseline" if model == BASE else model, model
    if examples.attack == TRANSFER_BEYOND:
        name, heading = f"{name}_1.5", f"{heading}, 1.5 thresholds"
    images = examples.adv_images[:SHOWN].mean(axis=1).clip(0, 1)
    labels, answers = examples.labels[:SHOWN], examples.predictions[:SHOWN]
    colours = []
    for label, answer in zip(labels, answers, strict=True):
        colours.append(to_rgb(OUTCOME_COLOURS[outcome_name(answer, label)]))
    num, height, width = images.shape
    framed = np.tile(np.array(colours)[:, None, None], (height + 2 * BORDER, width + 2 * BORDER, 1))
    framed[:, BORDER:-BORDER, BORDER:-BORDER] = images[..., None]
    cells = np.pad(framed, ((0, -num % COLUMNS), (TITLE, 0), (0, GAP), (0, 0)), constant_values=1)
    canvas = _tiled(cells, COLUMNS)
    heading = f"{heading}, median ε {eps_text(float(np.median(examples.budgets[:num])))}"
    size = (WIDE, WIDE * canvas.shape[0] / canvas.shape[1])
    alt = f"{num} adversarial images and the answers of {heading}"
    with sheet(f"fig_adversarial_samples_{name}", alt, size, heading) as (figure, drawn):
        figure.set_layout_engine("none")
        axis = figure.add_axes((0, 0, 1, 1))
        axis.imshow(canvas, interpolation="none")
        axis.set_axis_off()
        for index, (label, answer) in enumerate(zip(labels, answers, strict=True)):
            row, column = divmod(index, COLUMNS)
            x = column * cells.shape[2] + BORDER + width / 2
            y = row * cells.shape[1] + TITLE - 2
            text = f"{label} → {answer_text(answer)}, {examples.confidences[index]:.2f}"
            axis.text(x, y, text, ha="center", va="bottom", fontsize=8.5)
    (panel,) = drawn
    html = type(panel.html)('<div class="panel">{}</div>').format(panel.html)
    return replace(panel, html=html)
