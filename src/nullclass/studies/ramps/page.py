"""Page of the study ``ramps``: shares of the cube per model, and where training ends."""

from __future__ import annotations

import math
from typing import Any

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.report.blocks import Page, Table, Text, section
from nullclass.report.figures.training import ACCURACY
from nullclass.report.formatting import loss_text, percent, rate_text, value_cell
from nullclass.report.measures import Measure, Measures, tolerance_note
from nullclass.report.sections import DEFINITIONS, fill, notes_of, study_page
from nullclass.report.tables import clean_outcomes_table, make_table
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN
from nullclass.studies.ramps.config import NULL_SHARE
from nullclass.studies.ramps.cube import BOX_VOLUME, NULL, shares
from nullclass.studies.ramps.figures import (
    FIGURES,
    OPTIMAL,
    decision_spaces,
    num_training_images,
    scene,
    spaces,
)

Found = dict[tuple[str, str], Measure]
"""Measures by model and name: those of :func:`shares`, ``loss`` and :data:`ACCURACY`."""

BASE, UNIFORM, SHUFFLED = "base", "uniform", "shuffled"
COLUMNS = {
    "down": "down",
    "up": "up",
    "null": "null",
    "wrong": "class outside its boxes",
    "right": "boxes correct",
}
"""Shares of the cube (:func:`shares`) and their headings."""
PUBLISHED = {(BASE, ACCURACY): 1.0, (UNIFORM, "loss"): 0.168, (UNIFORM, ACCURACY): 0.943}
"""Final values of the source's models, to the digits it gives ("near")."""

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
]

SENTENCES = (
    "The boxes of the ramps fill {box} % of the cube. Share of it that the models answer "
    "with a class: {claimed}.",
    "Every model answers at least {least} of the test ramps correctly.",
    "Shuffled null images cannot keep the classes small: in four of six orders the pixels of a "
    "ramp are a ramp again, so no model can be correct on more than {best} % of the training "
    "images. This one ends at {shuffled_end}.",
    "The source's uniform model ends training near {source_accuracy} % accuracy and a loss of "
    "{source_loss}, ours at {accuracy} and {loss}.{quick}",
)


def page(run: Run) -> Page:
    """The page of the study."""
    measures, found = Measures(run), measured(run)
    clean = (
        f"{measures.num_images(CLEAN)} noisy ramps that were not trained on, not attacked, "
        f"{measures.seeds_text()}."
    )
    return study_page(
        measures,
        "Do null images keep the real classes small?",
        fill(SENTENCES, numbers(measures, found)),
        [
            *section(
                "Decision spaces of the models",
                cube_table(measures, found),
                decision_spaces(run),
                scene(run),
            ),
            *section(
                "Measured and published",
                clean_outcomes_table(measures, "Test ramps", clean),
                end_table(measures, found),
                Text(tolerance_note(len(measures.seeds))),
                notes_of(run),
            ),
        ],
        figures=FIGURES,
        last=tuple(FIGURES),
        terms=TERMS,
        definitions=[pair for pair in DEFINITIONS if pair[0] in OUTCOME_NAMES],
    )


def summary_tables(run: Run) -> list[Table]:
    """Tables for the terminal."""
    measures, found = Measures(run), measured(run)
    return [cube_table(measures, found), end_table(measures, found)]


def measured(run: Run) -> Found:
    """Shares of the cube, and loss and accuracy of the last epoch, over seeds."""
    values: dict[tuple[str, str], list[float]] = {}
    nums = {name: num_training_images(run) for name in ("loss", ACCURACY)}
    for trial in run.trials:
        of: dict[str, float] = {}
        if trial.decisions is not None:
            of |= shares(trial.decisions)
            nums |= dict.fromkeys(of, trial.decisions.size)
        if len(trial.history):
            of |= {name: float(trial.history[name].iloc[-1]) for name in ("loss", ACCURACY)}
        for name, value in of.items():
            values.setdefault((trial.model, name), []).append(value)
    return {
        (model, name): Measure(
            model,
            CLEAN,
            name,
            tuple(of),
            published=PUBLISHED.get((model, name)),
            num_images=nums[name],
        )
        for (model, name), of in values.items()
    }


def best_possible(model: str) -> dict[str, float]:
    """Training loss and accuracy that no model can improve on; empty for an unknown model.

    Uniform null images equal ramps only inside the boxes, and there only ramps whose dark pixel is
    not clipped to exactly 0 (half of them). Shuffled ones are ramps in four of six orders.
    """
    if model == BASE:
        return {"loss": 0.0, ACCURACY: 1.0}
    hidden, ramps = {
        UNIFORM: (NULL_SHARE * BOX_VOLUME, (1 - NULL_SHARE) / 2),
        SHUFFLED: (NULL_SHARE * 4 / 6, 1 - NULL_SHARE),
    }.get(model, (0.0, 0.0))
    if not hidden:
        return {}
    loss = -sum(part * math.log(part / (hidden + ramps)) for part in (hidden, ramps))
    return {"loss": loss, ACCURACY: 1 - hidden}


def cube_table(measures: Measures, found: Found) -> Table:
    """Shares of the cube, the true regions first."""
    true = spaces(measures.run)[OPTIMAL]
    best = shares(true)
    rows: list[list[Any]] = [[OPTIMAL, *(percent(best[name]) for name in COLUMNS)]]
    rows += [[m, *(found.get((m, name)) for name in COLUMNS)] for m in measures.models]
    return make_table(
        "Shares of the cube",
        ["model", *((column, "%") for column in COLUMNS.values())],
        rows,
        f"n = {true.size:,} points of a grid per seed, {measures.seeds_text()}; boxes correct: of "
        f"the {(true != NULL).sum():,} points in boxes. Optimal: the true regions on the same "
        f"grid; their volume is {percent(BOX_VOLUME)} % of the cube. Base has a null logit but no "
        "null images in training. trials/*/decisions.safetensors holds the answers at every point.",
        measures.spread_note() if len(measures.seeds) > 1 else "",
    )


def end_table(measures: Measures, found: Found) -> Table:
    """Accuracy and loss at the end of training, published values and the best possible."""
    rows: list[list[Any]] = []
    for model in measures.models:
        row: list[Any] = [model]
        best = best_possible(model)
        for name, write, factor in ((ACCURACY, percent, 100), ("loss", loss_text, 1)):
            known = PUBLISHED.get((model, name))
            near = None if known is None else f"near {factor * known:g}"
            row.append(value_cell(found.get((model, name)), near))
            row.append(write(best[name]) if best else None)
        rows.append(row)
    n = num_training_images(measures.run)
    return make_table(
        "The end of training",
        ["model", ("accuracy", "%"), ("best possible", "%"), "loss", "best possible"],
        rows if any((model, ACCURACY) in found for model in measures.models) else [],
        f"Mean over the last epoch on ramps and null images{f' (n = {n:,} per seed)' if n else ''}"
        f", with dropout, {measures.seeds_text()}. “pub.”: read from the source, one model each; "
        "it gives none for shuffled null images.",
        measures.spread_note() if len(measures.seeds) > 1 else "",
    )


def numbers(measures: Measures, found: Found) -> dict[str, Any]:
    """Values of :data:`SENTENCES`."""
    nulls = [found[model, "null"] for model in measures.models if (model, "null") in found]
    claimed = [null.complement("claimed") for null in nulls]
    correct = measures.find_all(measures.models, CLEAN, "correct")
    least = min(correct, key=lambda m: m.mean, default=None)
    ends = {
        "accuracy": found.get((UNIFORM, ACCURACY)),
        "loss": found.get((UNIFORM, "loss")),
        "shuffled_end": found.get((SHUFFLED, ACCURACY)),
        "least": least,
    }
    is_quick = measures.run.info.preset == "quick"
    return {
        "box": percent(BOX_VOLUME, 1),
        "claimed": ", ".join(f"{m.model} {rate_text(m)}" for m in claimed) or None,
        "best": percent(best_possible(SHUFFLED)[ACCURACY], 1),
        "source_accuracy": percent(PUBLISHED[UNIFORM, ACCURACY], 1),
        "source_loss": f"{PUBLISHED[UNIFORM, 'loss']:.3f}",
        "quick": " The quick preset takes fewer and larger steps than the source." * is_quick,
        **{name: measure and rate_text(measure) for name, measure in ends.items()},
    }
