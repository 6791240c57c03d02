"""Figures of the study ``null-samples``, by the report's file names."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nullclass.core.outcomes import OUTCOME_NAMES, outcome_name
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.figures.training import training
from nullclass.report.formatting import attack_name, eps_text
from nullclass.report.measures import OWN_BUDGET, Measure, Measures
from nullclass.report.pictures import answer_text
from nullclass.report.sections import Figure
from nullclass.report.style import (
    LINE_COLOURS,
    OUTCOME_COLOURS,
    OUTCOME_LEGEND,
    OUTCOME_LINES,
    WIDE,
    percent_axis,
    sheet,
)
from nullclass.results.run import Run
from nullclass.results.schema import CLEAN, Examples
from nullclass.studies.null_samples.config import (
    AT_THRESHOLD,
    BASE,
    SHOWN,
    TRANSFER,
    TRANSFER_AT_THRESHOLD,
    TRANSFER_BEYOND,
    WHITE_BOX_AT_THRESHOLD,
)
from nullclass.studies.null_samples.tables import WORDS, sets_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = {"correct": "solid", "null": (0, (5, 1.5)), "fooled": (0, (1.5, 1))}
"""Dashes of the outcomes, for readers who do not see colours."""
BORDER, TITLE, GAP, COLUMNS = 2, 12, 4, 6
"""Of the sheets of images: pixels of a border, above and between images; images per row."""
WHITE_BOX = "white-box attack on the model itself"
MARKS: dict[str, dict[str, Any]] = {
    "measured": {"marker": "o"},
    "published": {"marker": "D", "markersize": 4.5, "markerfacecolor": "white"},
    WHITE_BOX: {"marker": "s", "markersize": 4},
}
SIDES = (1, 2, 4, 7, 14)
"""Tile sides in pixels; training uses all but the first."""
SEED = 0
"""Of the random numbers of the figure of null images."""

Images = npt.NDArray[np.float32]


def scores(run: Run) -> Drawing | None:
    """Clean accuracy and the outcomes at the thresholds: measured, published and white-box."""
    measures = Measures(run)
    models = [model for model in measures.models if measures.find(model, CLEAN, "correct")]
    if not models:
        return None
    columns = [("correct", "correct, no attack", CLEAN, 0.0)]
    if measures.budgets(TRANSFER_AT_THRESHOLD):
        words = WORDS | {"correct": "correct at threshold"}
        columns += [(o, t, TRANSFER_AT_THRESHOLD, OWN_BUDGET) for o, t in words.items()]
    has_white_box = bool(measures.budgets(WHITE_BOX_AT_THRESHOLD))
    titles = ", ".join(title for _, title, _, _ in columns)
    alt = f"{titles}: rates by model, measured, published and white-box"
    size = (WIDE, 1.3 + 0.32 * len(models))
    with sheet("fig_scores_at_threshold", alt, size) as (figure, drawn):
        axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axis, (outcome, title, attack, eps) in zip(axes, columns, strict=True):
            colour, is_clean = OUTCOME_LINES[outcome], attack == CLEAN
            for row, model in enumerate(models):
                measure = measures.find(model, attack, outcome, eps)
                white_box = measures.find(model, WHITE_BOX_AT_THRESHOLD, outcome, OWN_BUDGET)
                published = (measure.published, 0.0) if is_clean and measure else None
                if not is_clean:
                    published = AT_THRESHOLD.get(model, {}).get(outcome)
                    _dot(axis, row + 0.26, WHITE_BOX, "#222222", _mean_and_error(white_box))
                _dot(axis, row - 0.2, "measured", colour, _mean_and_error(measure))
                _dot(axis, row + 0.03, "published", colour, published)
            axis.set_yticks(range(len(models)), models)
            axis.set_ylim(len(models) - 0.5, -0.5)
            axis.grid(axis="x")
            axis.set_title(title, loc="left", fontsize=8.5)
            percent_axis(axis.xaxis)
            if is_clean:
                axis.margins(x=0.12)
                axis.locator_params(axis="x", nbins=3)
            else:
                axis.set_xlim(-0.05, 1.05)
                axis.set_xticks([0, 0.5, 1])
        for label, style in MARKS.items():
            if label != WHITE_BOX or has_white_box:
                axes[0].plot([], [], linestyle="none", color="#444444", label=label, **style)
        figure.legend(loc="outside lower center", ncols=3)
    spread = "mean ± sd over sets" if len(measures.seeds) > 1 else "95 % Wilson intervals"
    caption = f"Clean: {measures.num_images(CLEAN)} test images (the axis does not start at 0). "
    if len(columns) > 1:
        caption += (
            f"Others: FGSM on {BASE} of the same set, transferred; each image at the smallest ε "
            f"(L∞, pixel units) that fools {BASE}; {measures.num_images(TRANSFER_AT_THRESHOLD)} "
            "images per set. "
        )
    if has_white_box:
        caption += (
            "White-box: the worst-case ensemble on the scored model, at the same ε, on the first "
            f"{measures.num_images(WHITE_BOX_AT_THRESHOLD)} of these images. "
        )
    caption += (
        f"{sets_text(measures)}: {spread}. Published: mean ± sd over 30 sets; clean ones are read "
        "off a bar plot."
    )
    return Drawing("Scores", caption, drawn)


def _mean_and_error(measure: Measure | None) -> tuple[float, Any] | None:
    """Mean and length of the error bar: sd over sets, or the Wilson interval of one set."""
    if measure is None:
        return None
    if len(measure.values) > 1:
        return measure.mean, measure.sd
    low, high = measure.interval
    return measure.mean, [[measure.mean - low], [high - measure.mean]]


def _dot(axis: Axes, y: float, kind: str, colour: str, rate: tuple[Any, Any] | None) -> None:
    if rate is not None and rate[0] is not None:
        style: dict[str, Any] = {"color": colour, "elinewidth": 1.1, "capsize": 2, **MARKS[kind]}
        axis.errorbar(rate[0], y, xerr=rate[1], linestyle="none", **style)


def epsilon_thresholds(run: Run) -> Drawing | None:
    """Histogram and distribution function of the base models' FGSM thresholds."""
    measures = Measures(run)
    sets = [
        trial.thresholds["threshold"].to_numpy(dtype=float)
        for trial in run.trials
        if trial.model == BASE and trial.selection == measures.selection and len(trial.thresholds)
    ]
    if not sets:
        return None
    # up to the next tenth, so that the width of a bin can be read off
    end = np.ceil(max(float(values.max()) for values in sets) * 10 - 1e-6) / 10
    edges, grid = np.linspace(0, end, 21), np.linspace(0, end, 401)
    shares = np.array([np.histogram(values, edges)[0] / len(values) for values in sets])
    below = np.array([(values[:, None] <= grid).mean(axis=0) for values in sets])
    curves = {
        "Share of images, 20 bins": (edges, np.pad(shares, ((0, 0), (0, 1)), "edge"), "post"),
        "Share of images with threshold at most ε": (grid, below, None),
    }
    alt = "FGSM thresholds of the base models: share of images per bin, and share at most ε"
    with sheet("fig_epsilon_thresholds_hist_cdf", alt, (WIDE, 2.9)) as (figure, drawn):
        for axis, (title, (eps, values, step)) in zip(
            figure.subplots(1, 2), curves.items(), strict=True
        ):
            style: dict[str, Any] = {"color": LINE_COLOURS[1]}
            axis.fill_between(
                eps, values.min(0), values.max(0), step=step, alpha=0.22, linewidth=0, **style
            )
            style["drawstyle"] = f"steps-{step}" if step else "default"
            axis.plot(eps, np.median(values, axis=0), **style)
            axis.set_title(title, loc="left")
            axis.set_xlim(0, end)
            axis.set_ylim(bottom=0)
            axis.set_xlabel("ε, pixel units")
            axis.grid(axis="y")
            percent_axis(axis.yaxis)
    n = _ends({len(values) for values in sets}, "{:,}")
    band = "Line: median over sets; band: lowest to highest set. " if len(sets) > 1 else ""
    return Drawing(
        "Thresholds of the base models",
        f"The smallest ε, in pixel units (L∞), at which one FGSM step on {BASE} fools {BASE} "
        f"itself; {n} images per set, {sets_text(measures)}. Images that {BASE} misclassifies when "
        f"clean, or still classifies correctly at ε 1, are left out. {band}Median threshold per "
        f"set: {_ends({float(np.median(values)) for values in sets}, '{:.3f}')}.",
        drawn,
    )


def _ends(values: set[Any], form: str) -> str:
    """The smallest and the largest value, or the only one."""
    return " to ".join(form.format(value) for value in sorted({min(values), max(values)}))


def scores_versus_epsilon(run: Run) -> Drawing | None:
    """Outcomes against ε, one panel per model; median and quartiles over sets."""
    measures = Measures(run)
    attacked = {measure.model for measure in measures.all if measure.attack == TRANSFER}
    models = [model for model in measures.models if model in attacked]
    if not models:
        return None
    curves = {
        (m, outcome): _quartiles(measures, m, outcome) for m in models for outcome in OUTCOME_NAMES
    }
    num_rows = math.ceil(len(models) / 2)
    alt = f"rates of correct, null and fooled against ε for {', '.join(models)}"
    with sheet("fig_scores_versus_epsilon", alt, (WIDE, 0.7 + 1.75 * num_rows)) as (figure, drawn):
        axes = figure.subplots(num_rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
        for axis, model in zip(axes, models, strict=False):
            if model != BASE and BASE in models:
                base = curves[BASE, "fooled"][0.5]
                axis.plot(base.index, base, color="#222222", lw=0.7, label=f"{BASE} fooled")
            for outcome in OUTCOME_NAMES:
                of, colour = curves[model, outcome], OUTCOME_LINES[outcome]
                style: dict[str, Any] = {"linestyle": DASHES[outcome], "label": outcome}
                axis.plot(of.index, of[0.5], color=colour, **style)
                axis.fill_between(
                    of.index, of[0.25], of[0.75], color=colour, alpha=0.22, linewidth=0
                )
            axis.set_title(model, loc="left")
            axis.set_xlim(0, 1)
            axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
            axis.set_ylim(-0.02, 1.02)
            axis.set_yticks([0, 0.5, 1])
            axis.grid(axis="y")
            percent_axis(axis.yaxis)
        for axis in axes[len(models) :]:
            axis.set_axis_off()
        for axis in axes[: len(models)][-2:]:
            axis.set_xlabel("ε, pixel units")
            axis.tick_params(labelbottom=True)
        handles, labels = axes[len(models) - 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    spread = "; line: median over sets; band: quartiles" if len(measures.seeds) > 1 else ""
    return Drawing(
        "Scores against ε",
        f"{attack_name(TRANSFER)} on {BASE} of the same set, transferred; the same ε (L∞, pixel "
        f"units) for all images; {measures.num_images(TRANSFER)} images per set, which {BASE} "
        f"classifies correctly when clean; {sets_text(measures)}{spread}. Thin line: {BASE} is "
        "fooled.",
        drawn,
    )


def _quartiles(measures: Measures, model: str, outcome: str) -> pd.DataFrame:
    """Quartiles over sets, by ε."""
    found = [measures.find(model, TRANSFER, outcome, eps) for eps in measures.budgets(TRANSFER)]
    values = {measure.eps: measure.values for measure in found if measure is not None}
    return pd.DataFrame.from_dict(values, orient="index").quantile([0.25, 0.5, 0.75], axis=1).T


def null_images(run: Run) -> Drawing | None:
    """One row per kind of null image, drawn by the rules of :mod:`nullclass.nulls` in NumPy."""
    examples = next((trial.examples[0] for trial in run.trials if trial.examples), None)
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


def adversarial_samples(run: Run) -> Drawing | None:
    """Sheets of adversarial images of the first set, one per model."""
    measures = Measures(run)
    trials = [t for t in run.trials if t.selection == measures.selection and t.examples]
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
        f"true class → answer, probability of the answer. Models selected on {measures.selection} "
        "images.",
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


def training_histories(run: Run) -> Drawing | None:
    """Loss, accuracy and selection losses against epochs."""
    measures = Measures(run)
    columns = {"loss": "Training loss", "train_accuracy": "Training accuracy"}
    columns |= {f"{name}_loss": f"Selection loss, {name}" for name in measures.selections}
    selected = [trial for trial in run.trials if trial.selection == measures.selection]
    drawing = training(replace(run, trials=selected), columns, "fig_training_histories")
    if drawing is None:
        return None
    caption = (
        f"{drawing.caption} Dropout is on. Selection loss: after an epoch, on the images of that "
        "selection and as many null images (none for the base model); the epoch with the lowest "
        "is kept. No attack."
    )
    return replace(drawing, title="Training histories", caption=caption)


FIGURES: dict[str, Figure] = {
    "scores": scores,
    "epsilon-thresholds": epsilon_thresholds,
    "scores-versus-epsilon": scores_versus_epsilon,
    "null-images": null_images,
    "adversarial-samples": adversarial_samples,
    "training-histories": training_histories,
}
