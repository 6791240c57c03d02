"""The report's toy: how much of the cube each model claims, and where its training ends."""

from __future__ import annotations

import math

from nullclass.report.blocks import Block, Bullets, Cell, Page, Section, Table, Terms, Text
from nullclass.report.common import (
    DEFINITIONS,
    redraw_section,
    settings_section,
    subtitle,
)
from nullclass.report.measures import (
    CLEAN,
    Measure,
    Measures,
    loss_text,
    percent,
    value_cell,
)
from nullclass.report.tables import rule, with_unit
from nullclass.results.store import Run
from nullclass.studies.ramps.config import NULL_SHARE
from nullclass.studies.ramps.figures.decision_space import OPTIMAL, decision_spaces, scene
from nullclass.studies.ramps.figures.ramp_cube import BOX_VOLUME, optimal, shares
from nullclass.studies.ramps.figures.ramp_samples import ramp_samples
from nullclass.studies.ramps.figures.ramp_training import PUBLISHED, ramp_training

BASE, UNIFORM, SHUFFLED = "base", "uniform", "shuffled"
COLUMNS = {
    "down": "down",
    "up": "up",
    "null": "null",
    "wrong": "wrongly claimed",
    "right": "boxes right",
}
"""Shares of the cube, as :func:`shares` names them, and as the table does."""

TERMS = [
    (
        "ramp",
        "An image of three pixels, two of them .666 and .333 or .333 and .666; the third is 0.",
    ),
    (
        "cube",
        "All images of three pixels: each is a point, its pixels from 0 to 1 the coordinates.",
    ),
    ("decision space", "What a model answers at every point of the cube, here of a grid."),
    (
        "box",
        "All that noise of up to .05 a pixel can make of one of the four ramps. The four boxes "
        f"together are {100 * BOX_VOLUME:.1f} % of the cube.",
    ),
    ("wrongly claimed", "Answered with a class, outside the boxes of that class."),
    ("boxes right", "Of the grid's points in boxes, the share answered with the box's class."),
    (
        "best possible",
        "What a model could reach at most that knew how its training images are drawn: ramps and "
        "null images that look the same cannot be told apart.",
    ),
]


def ramps(run: Run) -> Page:
    """The page of the study ``ramps``."""
    measures = Measures(run)
    cubes, ends = cube_measures(run), end_measures(run)
    samples, spaces, training = ramp_samples(), decision_spaces(run), ramp_training(run)
    told: list[Block] = [clean_table(measures)]
    if ends:
        told += [end_table(ends, measures), Text(rule(len(measures.seeds)))]
    notes = run.info.get("notes")
    if isinstance(notes, list) and notes:
        told.append(Bullets([str(note) for note in notes]))
    sections = [
        Section("What each model claims", [cube_table(run, cubes, measures), spaces, scene(run)]),
        Section("Measured and published", told),
        *([Section(training.title, [training])] if training is not None else []),
        Section(samples.title, [samples]),
        settings_section(run),
        Section("What the words mean", [Terms([*TERMS, *_outcome_terms()])]),
        _redraw(),
    ]
    return Page(
        "Do null images keep the real classes small?",
        f"Study ramps · {subtitle(run, measures)}",
        findings(run, measures, cubes, ends),
        sections,
    )


def cube_measures(run: Run) -> dict[tuple[str, str], Measure]:
    """Shares of the cube over seeds, by model and name of the share."""
    found: dict[tuple[str, str], list[float]] = {}
    num = 0
    for trial in run.trials:
        if trial.decisions is not None:
            num = trial.decisions.size
            for name, share in shares(trial.decisions).items():
                found.setdefault((trial.model, name), []).append(share)
    return {key: _measure(*key, tuple(values), num) for key, values in found.items()}


def end_measures(run: Run) -> dict[tuple[str, str], Measure]:
    """Loss and accuracy of the last epoch over seeds, by model and column of the history."""
    found: dict[tuple[str, str], list[float]] = {}
    for trial in run.trials:
        if {"loss", "train_accuracy"} <= set(trial.history) and len(trial.history):
            for name in ("loss", "train_accuracy"):
                value = float(trial.history[name].iloc[-1])
                found.setdefault((trial.model, name), []).append(value)
    return {
        key: _measure(*key, tuple(values), 0, PUBLISHED.get(key)) for key, values in found.items()
    }


def _measure(
    model: str, metric: str, values: tuple[float, ...], num: int, published: float | None = None
) -> Measure:
    return Measure(
        model=model,
        attack=CLEAN,
        objective="none",
        norm="linf",
        eps=0.0,
        metric=metric,
        values=values,
        published=published,
        low=math.nan,
        high=math.nan,
        num_images=num,
    )


def best_possible(model: str) -> dict[str, float]:
    """Training loss and accuracy that no model can beat, from how the images are drawn.

    Uniform null images hide among the ramps only inside the boxes, and there only among the ramps
    whose dark pixel was not clipped to exactly 0, which half of them are. Shuffled ones are ramps
    again in four of six orders.
    """
    real, null = 1 - NULL_SHARE, NULL_SHARE
    if model == BASE:
        return {"loss": 0.0, "train_accuracy": 1.0}
    hidden, among = {
        UNIFORM: (null * BOX_VOLUME, real / 2),
        SHUFFLED: (null * 4 / 6, real),
    }.get(model, (math.nan, math.nan))
    both = hidden + among
    loss = -hidden * math.log(hidden / both) - among * math.log(among / both)
    return {"loss": loss, "train_accuracy": 1 - hidden}


def cube_table(run: Run, cubes: dict[tuple[str, str], Measure], measures: Measures) -> Table:
    """Shares of the cube, the true regions first."""
    sides = {trial.decisions.shape[0] for trial in run.trials if trial.decisions is not None}
    rows = []
    for side in sorted(sides):
        true = shares(optimal(side))
        rows.append([Cell(OPTIMAL), *(Cell(percent(true[name])) for name in COLUMNS)])
    for model in measures.models:
        rows.append(
            [Cell(model), *(value_cell(cubes.get((model, name))) for name in COLUMNS)],
        )
    grid = f"{max(sides)}³ points" if sides else "points"
    spread = " Mean over seeds ± their standard deviation." if len(measures.seeds) > 1 else ""
    return Table(
        "Shares of the cube",
        [Cell("model"), *(Cell(column, "%") for column in COLUMNS.values())],
        rows,
        f"Of a grid of {grid}, {measures.seeds_text()}. Optimal are the true regions, as the same "
        f"grid sees them; their volume is {100 * BOX_VOLUME:.2f} % of the cube. Wrongly claimed: a "
        f"class outside its boxes. Boxes right: of the points in boxes. Base could answer null but "
        f"was never taught to.{spread}",
    )


def clean_table(measures: Measures) -> Table:
    """Correct, null and fooled on unattacked ramps."""
    words = ("correct", "null", "fooled")
    rows = [
        [Cell(model), *(value_cell(measures.find(model, CLEAN, word)) for word in words)]
        for model in measures.models
    ]
    spread = (
        "Below each rate: its 95 % Wilson interval over the images."
        if len(measures.seeds) == 1
        else "Mean over seeds ± their standard deviation."
    )
    return Table(
        "Test ramps",
        [Cell("model"), *(Cell(word, "%") for word in words)],
        rows,
        f"{measures.num_images(CLEAN)} ramps with noise that were not trained on, not attacked, "
        f"{measures.seeds_text()}. {spread}",
    )


def end_table(ends: dict[tuple[str, str], Measure], measures: Measures) -> Table:
    """Where training ends, beside the source and beside the best possible."""
    rows = []
    for model in measures.models:
        row = [Cell(model)]
        best = best_possible(model)
        for name, write in (("train_accuracy", percent), ("loss", loss_text)):
            measure = ends.get((model, name))
            known = PUBLISHED.get((model, name))
            near = {"train_accuracy": 1, "loss": 3}[name]
            text = None
            if known is not None:
                text = f"near {100 * known:.{near}f}" if near == 1 else f"near {known:.{near}f}"
            row.append(value_cell(measure, text))
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
        "Mean over the last epoch, on ramps and null images as they came, with dropout, "
        f"{measures.seeds_text()}. Figures after “pub.” are read from the source, one model each; "
        "it gives none for shuffled null images.",
    )


def findings(
    run: Run,
    measures: Measures,
    cubes: dict[tuple[str, str], Measure],
    ends: dict[tuple[str, str], Measure],
) -> list[str]:
    """What was found, in sentences with numbers from the rows."""
    told = []
    if measures.missing:
        told.append(f"This run is not finished: nothing yet of {', '.join(measures.missing)}.")
    told += [*_claimed(cubes, measures), *_right(measures)]
    if SHUFFLED in measures.models:
        best = best_possible(SHUFFLED)["train_accuracy"]
        end = ends.get((SHUFFLED, "train_accuracy"))
        ours = f"; this one ends at {with_unit(end)}" if end is not None else ""
        told.append(
            "Shuffled null images cannot keep the classes small: in four of six orders the pixels "
            "of a ramp are a ramp again, so that no model can be right on more than "
            f"{100 * best:.1f} % of the images in training{ours}."
        )
    return [*told, *_uniform(run, measures, cubes, ends)]


def _claimed(cubes: dict[tuple[str, str], Measure], measures: Measures) -> list[str]:
    """How much of the cube each model takes for a ramp."""
    shown = []
    for model in measures.models:
        null = cubes.get((model, "null"))
        if null is not None:
            claimed = tuple(1 - share for share in null.values)
            shown.append(
                f"{model} in {with_unit(_measure(model, 'claimed', claimed, null.num_images))}"
            )
    if not shown:
        return []
    boxes = f"The boxes of the ramps fill {percent(BOX_VOLUME, 1)} % of the cube of all images."
    return [f"{boxes} A class is answered by {', by '.join(shown)} of it."]


def _right(measures: Measures) -> list[str]:
    """The least accurate model on test ramps."""
    found = [measures.find(model, CLEAN, "correct") for model in measures.models]
    worst = min((m for m in found if m is not None), key=lambda m: m.mean, default=None)
    if worst is None:
        return []
    of = f"of the {worst.num_images:,} test ramps"
    if len(measures.models) == 1:
        return [f"It is right on {with_unit(worst)} {of}."]
    if worst.mean == 1:
        return [f"Every model is right on all {of}."]
    return [f"Every model is right on at least {percent(worst.mean)} % {of}."]


def _uniform(
    run: Run,
    measures: Measures,
    cubes: dict[tuple[str, str], Measure],
    ends: dict[tuple[str, str], Measure],
) -> list[str]:
    """What keeps the uniform model's training accuracy below 100 %."""
    accuracy, loss = (ends.get((UNIFORM, name)) for name in ("train_accuracy", "loss"))
    if accuracy is None or loss is None:
        return []
    known = {name: PUBLISHED[UNIFORM, name] for name in ("train_accuracy", "loss")}
    told = [
        f"The source's uniform model ends training near {percent(known['train_accuracy'], 1)} % "
        f"accuracy and loss {known['loss']:.3f}, ours at {with_unit(accuracy)} and "
        f"{with_unit(loss)}."
    ]
    if run.info.get("preset") == "quick":
        told.append("The quick preset trains in fewer and larger steps; full is the source's own.")
    inside = NULL_SHARE * BOX_VOLUME
    reason = (
        "Uniform null images inside the ramps' boxes cost it no more than "
        f"{percent(inside, 1)} points of accuracy"
    )
    null, correct = cubes.get((UNIFORM, "null")), measures.find(UNIFORM, CLEAN, "correct")
    if null is None or correct is None:
        return [*told, f"{reason}."]
    asked = (1 - NULL_SHARE) * correct.mean + NULL_SHARE * null.mean
    lost = "; most of what is missing is lost to dropout, which is on while training"
    return [
        *told,
        f"{reason}: asked without dropout, the trained model is right on about "
        f"{percent(asked, 1)} % of such a mix{lost if asked > accuracy.mean else ''}.",
    ]


def _outcome_terms() -> list[tuple[str, str]]:
    return [pair for pair in DEFINITIONS if pair[0] in ("correct", "null", "fooled")]


def _redraw() -> Section:
    section = redraw_section()
    told = Text("trials/*/decisions.safetensors holds the answers at every point of the grid.")
    return Section(section.title, [*section.blocks, told])
