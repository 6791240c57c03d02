"""Page of the study ``ramps``: shares of the cube per model, and where training ends."""

from __future__ import annotations

import math
from typing import Any

from nullclass.report.blocks import Cell, Page, Section, Table, Terms, Text, section
from nullclass.report.figures.training import ACCURACY
from nullclass.report.formatting import loss_text, percent, rate_text, value_cell
from nullclass.report.measures import Measure, Measures, tolerance_note
from nullclass.report.sections import (
    DEFINITIONS,
    fill,
    notes_of,
    redraw_section,
    settings_section,
    subtitle,
    unfinished,
)
from nullclass.report.tables import clean_outcomes_table
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run
from nullclass.studies.ramps.config import NULL_SHARE
from nullclass.studies.ramps.cube import BOX_VOLUME, optimal, shares
from nullclass.studies.ramps.figures import (
    OPTIMAL,
    PUBLISHED,
    decision_spaces,
    ramp_samples,
    ramp_training,
    scene,
)

Found = dict[tuple[str, str], Measure]
"""Measures by model and name."""

BASE, UNIFORM, SHUFFLED = "base", "uniform", "shuffled"
COLUMNS = {
    "down": "down",
    "up": "up",
    "null": "null",
    "wrong": "class outside its boxes",
    "right": "boxes correct",
}
"""Shares of the cube (:func:`shares`) and their headings."""

TERMS = [
    (
        "ramp",
        "An image of three pixels: 0.666 and 0.333, or 0.333 and 0.666, side by side; the third is "
        "0.",
    ),
    ("cube", "All images of three pixels: the pixel values are the coordinates of a point."),
    ("decision space", "A model's prediction at every point of the cube, here of a grid."),
    (
        "box",
        "All images that noise of up to 0.05 per pixel makes of one of the four ramps. The four "
        f"boxes are {percent(BOX_VOLUME, 1)} % of the cube.",
    ),
    (
        "class outside its boxes",
        "Answered with a class at a point outside the boxes of that class.",
    ),
    (
        "boxes correct",
        "Share of the grid's points in boxes that are answered with the box's class.",
    ),
    (
        "best possible",
        "The best result of a model that knows how training images are drawn: ramps and null "
        "images that are equal cannot be distinguished.",
    ),
    *(pair for pair in DEFINITIONS if pair[0] in ("correct", "null", "fooled")),
]

SENTENCES = (
    "The boxes of the ramps fill {box} % of the cube. The models answer a class on {claimed} of "
    "it.",
    "Every model answers at least {least} of the test ramps correctly.",
    "Shuffled null images cannot keep the classes small: in four of six orders the pixels of a "
    "ramp are a ramp again, so no model can be correct on more than {best} % of the training "
    "images. This one ends at {shuffled_end}.",
    "The source's uniform model ends training near {source_accuracy} % accuracy and a loss of "
    "{source_loss}, ours at {accuracy} and {loss}.{quick}",
    "Uniform null images inside the boxes cost at most {inside} points of accuracy; without "
    "dropout, the trained model is correct on about {mixed} % of the training mix.",
)


def page(run: Run) -> Page:
    """The page of the study."""
    measures = Measures(run)
    cubes, ends = cube_measures(run), end_measures(run)
    samples, training = ramp_samples(), ramp_training(run)
    clean = (
        f"{measures.num_images(CLEAN)} noisy ramps that were not trained on, not attacked, "
        f"{measures.seeds_text()}."
    )
    redraw = redraw_section()
    more = Text("trials/*/decisions.safetensors holds the answers at every point of the grid.")
    return Page(
        "Do null images keep the real classes small?",
        f"Study ramps · {subtitle(run, measures)}",
        [*unfinished(run, measures), *fill(SENTENCES, numbers(run, measures, cubes, ends))],
        [
            *section(
                "Decision spaces of the models",
                cube_table(run, cubes, measures),
                decision_spaces(run),
                scene(run),
            ),
            *section(
                "Measured and published",
                clean_outcomes_table(measures, "Test ramps", clean),
                *([end_table(ends, measures)] if ends else []),
                *([Text(tolerance_note(len(measures.seeds)))] if ends else []),
                notes_of(run),
            ),
            *section("Training", training),
            *section(samples.title, samples),
            settings_section(run),
            Section("Definitions", [Terms(TERMS)]),
            Section(redraw.title, [*redraw.blocks, more]),
        ],
    )


def cube_measures(run: Run) -> Found:
    """Shares of the cube over seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    num_points = 0
    for trial in run.trials:
        if trial.decisions is not None:
            num_points = trial.decisions.size
            for name, share in shares(trial.decisions).items():
                found.setdefault((trial.model, name), []).append(share)
    return {
        (model, name): Measure(model, CLEAN, name, tuple(values), num_images=num_points)
        for (model, name), values in found.items()
    }


def end_measures(run: Run) -> Found:
    """Loss and accuracy of the last epoch over seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    for trial in run.trials:
        if {"loss", ACCURACY} <= set(trial.history) and len(trial.history):
            for name in ("loss", ACCURACY):
                value = float(trial.history[name].iloc[-1])
                found.setdefault((trial.model, name), []).append(value)
    return {
        key: Measure(key[0], CLEAN, key[1], tuple(values), published=PUBLISHED.get(key))
        for key, values in found.items()
    }


def best_possible(model: str) -> dict[str, float]:
    """Training loss and accuracy that no model can improve on.

    Uniform null images equal ramps only inside the boxes, and there only ramps whose dark pixel is
    not clipped to exactly 0 (half of them). Shuffled ones are ramps in four of six orders.
    """
    if model == BASE:
        return {"loss": 0.0, ACCURACY: 1.0}
    hidden, ramps = {
        UNIFORM: (NULL_SHARE * BOX_VOLUME, (1 - NULL_SHARE) / 2),
        SHUFFLED: (NULL_SHARE * 4 / 6, 1 - NULL_SHARE),
    }.get(model, (math.nan, math.nan))
    loss = -sum(part * math.log(part / (hidden + ramps)) for part in (hidden, ramps))
    return {"loss": loss, ACCURACY: 1 - hidden}


def cube_table(run: Run, cubes: Found, measures: Measures) -> Table:
    """Shares of the cube, the true regions first."""
    sides = sorted({t.decisions.shape[0] for t in run.trials if t.decisions is not None})
    true = [shares(optimal(side)) for side in sides]
    rows = [[Cell(OPTIMAL), *(Cell(percent(share[name])) for name in COLUMNS)] for share in true]
    rows += [
        [Cell(model), *(value_cell(cubes.get((model, name))) for name in COLUMNS)]
        for model in measures.models
    ]
    grid = f"{sides[-1]}³ points" if sides else "points"
    spread = f" {measures.spread_note()}" if len(measures.seeds) > 1 else ""
    return Table(
        "Shares of the cube",
        [Cell("model"), *(Cell(column, "%") for column in COLUMNS.values())],
        rows,
        f"Shares of a grid of {grid}, {measures.seeds_text()}. Optimal: the true regions on the "
        f"same grid; their volume is {percent(BOX_VOLUME)} % of the cube. Boxes correct: of the "
        f"points in boxes. Base has a null logit but no null images in training.{spread}",
    )


def end_table(ends: Found, measures: Measures) -> Table:
    """Accuracy and loss at the end of training, published values and the best possible."""
    rows = []
    for model in measures.models:
        row, best = [Cell(model)], best_possible(model)
        for name, write, near in (
            (ACCURACY, percent, "near {:.1%}"),
            ("loss", loss_text, "near {:.3f}"),
        ):
            known = PUBLISHED.get((model, name))
            text = None if known is None else near.format(known).removesuffix("%")
            row.append(value_cell(ends.get((model, name)), text))
            row.append(Cell("–" if math.isnan(best[name]) else write(best[name])))
        rows.append(row)
    return Table(
        "The end of training",
        [
            Cell("model"),
            Cell("accuracy", "%"),
            Cell("best possible", "%"),
            Cell("loss"),
            Cell("best possible"),
        ],
        rows,
        "Mean over the last epoch on ramps and null images, with dropout, "
        f"{measures.seeds_text()}. “pub.”: read from the source, one model each; it gives none for "
        "shuffled null images.",
    )


def numbers(run: Run, measures: Measures, cubes: Found, ends: Found) -> dict[str, Any]:
    """Values of :data:`SENTENCES`."""
    claimed = []
    for model in measures.models:
        null = cubes.get((model, "null"))
        if null is not None:
            share = Measure(model, CLEAN, "claimed", tuple(1 - v for v in null.values))
            claimed.append(f"{rate_text(share)} ({model})")
    correct = measures.find_all(measures.models, CLEAN, "correct")
    least = min(correct, key=lambda m: m.mean, default=None)
    accuracy, loss = (ends.get((UNIFORM, name)) for name in (ACCURACY, "loss"))
    shuffled_end = ends.get((SHUFFLED, ACCURACY))
    is_quick = run.info.get("preset") == "quick"
    values: dict[str, Any] = {
        "box": percent(BOX_VOLUME, 1),
        "claimed": ", ".join(claimed) or None,
        "least": least and rate_text(least),
        "best": percent(best_possible(SHUFFLED)[ACCURACY], 1),
        "shuffled_end": shuffled_end and rate_text(shuffled_end),
        "source_accuracy": percent(PUBLISHED[UNIFORM, ACCURACY], 1),
        "source_loss": f"{PUBLISHED[UNIFORM, 'loss']:.3f}",
        "accuracy": accuracy and rate_text(accuracy),
        "loss": loss and rate_text(loss),
        "quick": " The quick preset takes fewer and larger steps than the source." * is_quick,
        "inside": percent(NULL_SHARE * BOX_VOLUME, 1),
    }
    null, clean = cubes.get((UNIFORM, "null")), measures.find(UNIFORM, CLEAN, "correct")
    if null and clean and accuracy:
        mixed = (1 - NULL_SHARE) * clean.mean + NULL_SHARE * null.mean
        values["mixed"] = percent(mixed, 1)
    return values
