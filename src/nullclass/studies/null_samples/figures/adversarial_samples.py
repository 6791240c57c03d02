"""Thirty attacked images for each model: what they look like and what the model made of them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nullclass.core.outcomes import NULL_LABEL
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import Measures, attack_name, eps_text
from nullclass.report.style import WIDE, sheet
from nullclass.results.schema import Examples
from nullclass.results.store import Run, Trial
from nullclass.studies.null_samples.config import (
    BASE,
    SHOWN,
    TRANSFER_AT_THRESHOLD,
    TRANSFER_BEYOND,
)

NUM_COLUMNS = 6
BORDERS = {"correct": "#2CA02C", "fooled": "#D62728", "null": "#1F77B4"}
"""Green, red and blue, as in the source; the word is in each title too."""
BORDER = 2
"""Pixels of the images."""
GAP = (12, 4)
"""Rows of pixels above an image for its title, columns between two."""


def adversarial_samples(run: Run) -> Drawing | None:
    """A sheet a model, from the first set."""
    measures = Measures(run)
    of = [t for t in run.trials if t.selection == measures.selection and t.examples]
    if not of:
        return None
    seed = min(trial.seed for trial in of)
    panels = []
    for attack in (TRANSFER_AT_THRESHOLD, TRANSFER_BEYOND):
        for trial in (trial for trial in of if trial.seed == seed):
            found = next((e for e in trial.examples if e.attack == attack), None)
            if found is not None:
                panels.append(_sheet(found, trial, attack))
    if not panels:
        return None
    return Drawing(
        "Adversarial samples",
        f"{attack_name(TRANSFER_AT_THRESHOLD)}: one gradient-sign step made on {BASE} of the same "
        "set, as long as it takes to make that model err; ε in pixel units, L∞, each image its "
        f"own. The first {SHOWN} images of set {seed} that {BASE} gets right and that have such a "
        "step, not chosen by what other models say; “1.5” goes one and a half times as far. Above "
        "each image: true → "
        f"answered, and the answer's probability. Models selected on {measures.selection} images.",
        panels,
        [
            ("correct", BORDERS["correct"]),
            ("wrong digit (fooled)", BORDERS["fooled"]),
            ("null", BORDERS["null"]),
        ],
        is_folded=True,
    )


def _sheet(examples: Examples, trial: Trial, attack: str) -> Panel:
    name = "baseline" if trial.model == BASE else trial.model
    heading = trial.model
    if attack == TRANSFER_BEYOND:
        name, heading = f"{name}_1.5", f"{trial.model}, 1.5 thresholds"
    num = min(SHOWN, len(examples.labels))
    num_rows = math.ceil(num / NUM_COLUMNS)
    height, width = examples.adv_images.shape[2:]
    step = height + 2 * BORDER + GAP[0], width + 2 * BORDER + GAP[1]
    shape = num_rows * step[0], NUM_COLUMNS * step[1] - GAP[1]
    canvas = np.full((*shape, 3), 255, np.uint8)
    titles = []
    for place in range(num):
        top = place // NUM_COLUMNS * step[0] + GAP[0]
        left = place % NUM_COLUMNS * step[1]
        label, answer = examples.labels[place], examples.predictions[place]
        outcome = "null" if answer == NULL_LABEL else "correct" if answer == label else "fooled"
        framed = _framed(examples.adv_images[place], BORDERS[outcome])
        canvas[top : top + framed.shape[0], left : left + framed.shape[1]] = framed
        told = "null" if answer == NULL_LABEL else str(answer)
        middle = left + framed.shape[1] / 2
        titles.append((middle, top - 2, f"{label} → {told}, {examples.confidences[place]:.2f}"))
    middle_eps = eps_text(float(np.median(examples.budgets[:num])))
    alt = f"{num} attacked images and what {heading} answered; median eps {middle_eps}"
    size = WIDE, WIDE * shape[0] / shape[1]
    with sheet(f"fig_adversarial_samples_{name}", alt, size) as (figure, drawn):
        figure.set_layout_engine("none")
        axis = figure.add_axes((0, 0, 1, 1))
        axis.imshow(canvas, interpolation="none")
        axis.set_axis_off()
        for x, y, told in titles:
            axis.text(x, y, told, ha="center", va="bottom", fontsize=8.5)
    (panel,) = drawn
    framed_html = type(panel.html)('<div class="panel">{}</div>').format(panel.html)
    return Panel(framed_html, f"{heading}, median ε {middle_eps}", panel.file, panel.svg, panel.png)


def _framed(image: npt.NDArray[np.float32], colour: str) -> npt.NDArray[np.uint8]:
    """``(C, H, W)`` in [0,1] to ``(H + 2 b, W + 2 b, 3)`` with a border."""
    grey = (image.mean(axis=0).clip(0, 1) * 255).round().astype(np.uint8)
    framed = np.empty((grey.shape[0] + 2 * BORDER, grey.shape[1] + 2 * BORDER, 3), np.uint8)
    framed[:] = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    framed[BORDER:-BORDER, BORDER:-BORDER] = grey[:, :, None]
    return framed
