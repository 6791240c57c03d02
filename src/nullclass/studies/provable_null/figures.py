"""Figures of the study ``provable-null``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nullclass.core.outcomes import NULL_LABEL
from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.training import training
from nullclass.report.formatting import attack_name, eps_text
from nullclass.report.measures import Measure, Measures
from nullclass.report.pictures import answer_text
from nullclass.report.sections import Figure
from nullclass.report.style import (
    INK,
    OUTCOME_COLOURS,
    WIDE,
    WIDTH,
    curve,
    line_style,
    percent_axis,
    rate_axes,
    sheet,
)
from nullclass.results.schema import CLEAN, Examples
from nullclass.results.store import Run, Trial
from nullclass.studies.provable_null.measured import (
    Bracket,
    bracket,
    by_radius,
    radii,
    radius_of,
    training_of,
    zoo_brackets,
)
from nullclass.studies.provable_null.tables import verifiers_text
from nullclass.training.eps_schedule import RAMPS, EpsSchedule
from nullclass.zoo import FOLDER

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = 3
"""Panels per row."""
PROVED, ATTACKED, GAP = "#009E73", "#D55E00", "#E9E4D4"
NUM_IMAGES = 8
"""Images per row."""


def proved_and_attacked(run: Run, zoo: Path = FOLDER) -> Drawing | None:
    """RAR against ε, proved and attacked, one panel per model of the run and of the zoo.

    Args:
        run: The run.
        zoo: Folder of the zoo.
    """
    measures = Measures(run)
    if not measures.budgets(PROOF):
        return None
    own = [bracket(measures, model) for model in measures.models]
    own = [one for one in own if one.proved or one.attacked]
    others = zoo_brackets(run, {one.model for one in own}, zoo)
    titles = [one.model for one in own] + [f"{one.model} (zoo)" for one in others]
    num_rows = -(-len(titles) // COLUMNS)
    alt = "robust accuracy with rejection against ε, proved and attacked, one panel per model"
    size = (WIDE, 0.7 + 1.95 * num_rows)
    with sheet("fig_proved_and_attacked", alt, size) as (figure, drawn):
        axes = figure.subplots(num_rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
        for axis, one, title in zip(axes, [*own, *others], titles, strict=False):
            _bracket_panel(axis, one, radii(run).get(one.model))
            axis.set_title(title)
            axis.set_xlabel("")
        for axis in axes[len(titles) :]:
            axis.set_visible(False)
        for axis in axes[: len(titles)][-COLUMNS:]:
            axis.set_xlabel("ε, pixel units")
            axis.tick_params(labelbottom=True)
        axes[0].plot([], [], color=PROVED, label="proved")
        axes[0].plot([], [], color=ATTACKED, marker="v", linestyle="none", label="attacked")
        axes[0].fill_between([], [], color=GAP, label="unknown")
        figure.legend(loc="outside lower center", ncols=3)
    strongest = measures.null_aware()
    attacks = f"the {attack_name(strongest)} and all other attacks" if strongest else "all attacks"
    counts = ", ".join(
        f"{one.model} {' and '.join(f'{n:,}' for n in _counts(one))}" for one in others
    )
    return Drawing(
        "RAR, proved and attacked",
        "Robust accuracy with rejection: correct when clean, and no image within ε is fooled. "
        f"Line: proved by {verifiers_text(run)} on {measures.num_images(PROOF)} test images; no "
        f"attack can lower it. Marks: under {attacks} on {measures.num_images(UNION)} test images; "
        "a stronger attack may lower it. At ε 0: clean images answered correctly. "
        f"{measures.norm(PROOF)}, ε in pixel units, {measures.seeds_text()}; band and error bars: "
        f"{'lowest to highest seed' if len(measures.seeds) > 1 else '95 % Wilson intervals'}. "
        "Dotted: twice the radius of a model that proves its answers. Null-DoS and clean null are "
        f"in the tables.{f' Models of the zoo (n): {counts}.' if others else ''}",
        drawn,
    )


def _counts(one: Bracket) -> list[int]:
    return sorted({measure.num_images for measure in (*one.proved, *one.attacked)})


def _bracket_panel(axis: Axes, one: Bracket, radius: float | None) -> None:
    start = [] if one.clean is None else [one.clean]
    proved, attacked = [*start, *one.proved], [*start, *one.attacked]
    if one.proved and one.attacked:
        end = min(proved[-1].eps, attacked[-1].eps)
        at = sorted({m.eps for m in (*proved, *attacked) if m.eps <= end + 1e-9})
        low, high = (_interpolated(at, found) for found in (proved, attacked))
        # the rates are from different images, so the upper bound may be below the lower one
        axis.fill_between(at, low, np.maximum(low, high), color=GAP, linewidth=0)
    if one.proved:
        curve(axis, proved, band=True, alpha=0.25, color=PROVED)
    if one.attacked:
        curve(axis, one.attacked, band=False, color=ATTACKED, marker="v", linestyle="none")
    if radius is not None:
        axis.axvline(2 * radius, color="#777777", linewidth=0.9, linestyle=":")
    rate_axes(axis)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])


def _interpolated(at: Sequence[float], found: Sequence[Measure]) -> npt.NDArray[np.float64]:
    return np.interp(at, [m.eps for m in found], [m.mean for m in found])


def radius(run: Run) -> Drawing | None:
    """Outcomes of clean images against the radius of the proof."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    table = by_radius(run)
    if table.empty:
        return None
    measures, own = Measures(run), radii(run)
    models = [*dict.fromkeys(table["model"])]
    dashes: dict[str, Any] = {"null": "solid", "fooled": (0, (3, 1.5))}
    alt = "clean images that are correct, null and fooled, against the radius of the proof"
    with sheet("fig_radius", alt, (WIDTH, 5.6)) as (figure, drawn):
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.15, 1])
        for model in models:
            of, style = table[table["model"] == model], line_style(models, model)
            colour = style["color"]
            above.plot(of["radius"], of["correct"], color=colour, label=model)
            for outcome, linestyle in dashes.items():
                shown = of[of[outcome] > 0]
                below.plot(shown["radius"], shown[outcome], color=colour, linestyle=linestyle)
            _mark(((above, "correct"), (below, "null"), (below, "fooled")), of, own[model], style)
        above.set_ylim(max(0.0, float(table["correct"].min()) - 0.02), 1.0)
        above.set_ylabel("correct")
        twice = above.secondary_xaxis("top", functions=(lambda r: 2 * r, lambda eps: eps / 2))
        twice.set_xlabel("ε = 2r, where this RAR is proved")
        percent_axis(above.yaxis)
        below.set_yscale("log")
        below.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
        below.yaxis.set_minor_formatter(NullFormatter())
        below.set_ylabel("null, fooled")
        below.set_xlabel("radius r, pixel units")
        below.set_xlim(left=0)
        for axis in (above, below):
            axis.grid(axis="both")
        for outcome, linestyle in dashes.items():
            above.plot([], [], color="#7C828A", linestyle=linestyle, label=outcome)
        figure.legend(loc="outside lower center", ncols=2)
    return Drawing(
        "The price of a larger radius",
        "A model that answers only what it proves within r, on "
        f"{int(table['num_images'].min()):,} clean test images (no attack). Above: correct, which "
        "is the certified accuracy at r and the proved RAR at ε = 2r (upper scale). Below: null "
        "and fooled on a logarithmic scale, without 0. Large marks: the radius of the model. L∞, "
        f"pixel units, {measures.seeds_text()}{', means' * (len(measures.seeds) > 1)}. Null-DoS is "
        "in the tables.",
        drawn,
        is_large=True,
    )


def _mark(
    places: Sequence[tuple[Axes, str]], of: pd.DataFrame, radius: float, style: dict[str, Any]
) -> None:
    at = of[(of["radius"] - radius).abs() < 1e-6]
    for axis, outcome in places:
        found = at[at[outcome] > 0]
        axis.plot(
            found["radius"],
            found[outcome],
            markersize=9,
            markeredgewidth=1.8,
            linestyle="none",
            **style,
        )


class Picture(NamedTuple):
    """One image and the answer to it."""

    pixels: npt.NDArray[np.float32]
    """``(H, W)`` or ``(H, W, 3)`` in [0,1]."""
    label: int
    prediction: int
    margin: float
    """Largest proved margin of a class; positive if the image is answered."""


def answered_refused(run: Run) -> Drawing | None:
    """Answered and refused images of the first seed, one panel per model with a radius."""
    trials = [t for t in run.trials if radius_of(t) is not None and t.examples]
    if not trials:
        return None
    seed = min(trial.seed for trial in trials)
    return Drawing(
        "Answered and refused",
        f"Test images in their order, seed {seed}. Title: the answer, and the margin in logits by "
        "which interval bounds prove the best class within the radius; an answer needs a positive "
        "one. First the first images that are answered when clean, then the same images attacked; "
        "below the first images that are null when clean. Frame: blue correct, grey null, red "
        "fooled. L∞, pixel units.",
        [_pictures_panel(trial) for trial in trials if trial.seed == seed],
    )


def picture_rows(trial: Trial, radius: float) -> dict[str, list[Picture]]:
    """Pictures by the heading of their row; empty rows are left out."""
    best: dict[str, Examples] = {}
    for examples in trial.examples:  # of each attack the ε nearest to twice the radius
        kept = best.get(examples.attack, examples)
        is_nearer = abs(examples.eps_pixels - 2 * radius) <= abs(kept.eps_pixels - 2 * radius)
        best[examples.attack] = examples if is_nearer else kept
    sets = sorted(best.values(), key=lambda examples: "force-null" in examples.attack)
    most = max(sets, key=lambda examples: len(examples.labels))
    clean = _pictures(trial, most, is_clean=True)
    answered = [n for n, one in enumerate(clean) if one.prediction != NULL_LABEL][:NUM_IMAGES]
    refused = [n for n, one in enumerate(clean) if one.prediction == NULL_LABEL][:NUM_IMAGES]
    rows = {"clean, answered": [clean[n] for n in answered]}
    for examples in sets:
        attacked = _pictures(trial, examples)
        rows[_heading(examples)] = [attacked[n] for n in answered if n < len(attacked)]
    rows[f"clean, null (of the first {len(clean)})"] = [clean[n] for n in refused]
    attacked = _pictures(trial, most)
    rows[f"the same, {_heading(most)}"] = [attacked[n] for n in refused]
    return {heading: pictures for heading, pictures in rows.items() if pictures}


def _heading(examples: Examples) -> str:
    return f"{attack_name(examples.attack)}, ε {eps_text(examples.eps_pixels)}"


def _pictures(trial: Trial, examples: Examples, *, is_clean: bool = False) -> list[Picture]:
    attack, eps = (CLEAN, 0.0) if is_clean else (examples.attack, examples.eps_pixels)
    images = examples.clean if is_clean else examples.adv_images
    predictions = examples.clean_predictions if is_clean else examples.predictions
    rows = trial.rows
    of = rows[(rows["attack"] == attack) & ((rows["eps_pixels"] - eps).abs() < 1e-6)]
    # the margin is minus the null score, as null's logit is 0
    margins = -of.set_index("image")["null_score"].reindex(range(len(images)))
    pixels = [image[0] if len(image) < 3 else image[:3].transpose(1, 2, 0) for image in images]
    return [*map(Picture, pixels, examples.labels, predictions, margins)]


def _pictures_panel(trial: Trial) -> Panel:
    radius = radius_of(trial) or 0.0
    rows = picture_rows(trial, radius)
    heading = f"{trial.model}, radius {eps_text(radius)}"
    alt = f"images answered and refused by {trial.model}, with the margins of the proofs"
    size = (WIDE, 1.3 * len(rows))
    with sheet(f"fig_answered_refused_{trial.model}", alt, size, heading) as (figure, drawn):
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, (name, pictures) in zip(parts, rows.items(), strict=True):
            part.suptitle(name, x=0.005, ha="left", fontsize=8.5, fontweight="bold")
            axes = part.subplots(1, NUM_IMAGES)
            for axis, picture in zip(axes, pictures, strict=False):
                _draw_picture(axis, picture)
            for axis in axes[len(pictures) :]:
                axis.set_axis_off()
    return drawn[0]


def _draw_picture(axis: Axes, picture: Picture) -> None:
    axis.imshow(picture.pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    is_null, is_correct = picture.prediction == NULL_LABEL, picture.prediction == picture.label
    outcome = "null" if is_null else "correct" if is_correct else "fooled"
    axis.spines[:].set(visible=True, color=OUTCOME_COLOURS[outcome], linewidth=2.5)
    margin = f"{picture.margin:+.2g}".replace("-", "−")
    label = f" (is {picture.label})" if outcome == "fooled" else ""
    title = f"{answer_text(picture.prediction)}{label} {margin}"
    axis.set_title(title, fontsize=7, pad=3, color=INK)


def certified_training(run: Run) -> Drawing | None:
    """Loss, robust share and ε against epochs."""
    trials = [_with_eps(run, trial) for trial in run.trials if "epoch" in trial.history]
    columns = {"loss": "Training loss", "train_accuracy": "Robust share at the step's ε"}
    drawing = training(replace(run, trials=trials), columns | {"eps": "ε of the step"})
    if drawing is None:
        return None
    caption = (
        f"{drawing.caption} Losses differ in kind: worst-case logits within bounds (provable "
        "models and abstain), adversarial images (adversarial-null), clean images (clean). Robust "
        "share: proved, or with a loss on adversarial images not fooled, at the ε of the step in "
        "pixel units."
    )
    return replace(drawing, caption=caption)


def _with_eps(run: Run, trial: Trial) -> Trial:
    """The trial with the mean ε of each epoch in its history."""
    num = len(trial.history)
    eps = [mean_eps(training_of(run, trial.model), n / num, (n + 1) / num) for n in range(num)]
    copy = replace(trial)
    copy.__dict__["history"] = trial.history.assign(eps=eps)
    return copy


def mean_eps(training: dict[str, Any], begin: float, end: float) -> float:
    """The mean ε of the steps between two shares of a training; 0 without a robust loss.

    NaN if the training is not recorded.
    """
    if not training:
        return float("nan")
    if training.get("robust") is None:
        return 0.0
    settings = training["robust"]["settings"]
    warmup, ramp = RAMPS[training["robust"]["loss"]]
    schedule = EpsSchedule(
        settings["eps"], settings.get("warmup", warmup), settings.get("ramp", ramp)
    )
    steps = np.linspace(begin, end, 401)[1::2]
    return float(settings["eps"] * np.mean([schedule.fraction(step) for step in steps]))


FIGURES: dict[str, Figure] = {
    "proved-and-attacked": proved_and_attacked,
    "radius": radius,
    "answered-refused": answered_refused,
    "gallery": gallery,
    "training": certified_training,
}
