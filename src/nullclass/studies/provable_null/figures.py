"""Figures of the study ``provable-null``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nullclass.core.outcomes import NULL_LABEL, outcome_name
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.training import training
from nullclass.report.formatting import attack_name, eps_text
from nullclass.report.measures import Measures
from nullclass.report.pictures import answer_text
from nullclass.report.sections import Figure
from nullclass.report.style import (
    INK,
    OUTCOME_COLOURS,
    WIDE,
    WIDTH,
    line_style,
    percent_axis,
    rate_axes,
    sheet,
)
from nullclass.results.run import Trial
from nullclass.results.schema import CLEAN, PROOF, UNION, Examples
from nullclass.studies.provable_null.measured import (
    BRACKET,
    brackets,
    by_radius,
    radii,
    training_eps,
    trial_config,
    zoo_brackets,
)
from nullclass.studies.provable_null.tables import verifiers_text
from nullclass.zoo import FOLDER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
"""Panels per row."""
PROVED, ATTACKED, GAP = "#009E73", "#D55E00", "#E9E4D4"
NUM_IMAGES = 8
"""Images per row."""


def proved_and_attacked(measures: Measures, zoo: Path = FOLDER) -> Drawing | None:
    """RAR against ε, proved and attacked, one panel per model of the run and of the zoo.

    Args:
        measures: Of the run.
        zoo: Folder of the zoo.
    """
    if not measures.budgets(PROOF):
        return None
    others = zoo_brackets(measures.run, measures.models, zoo)
    found = pd.concat([brackets(measures), others.assign(model=others["model"] + " (zoo)")])
    found = found.astype(dict.fromkeys(BRACKET[2:], float))  # object, if the zoo has no rows
    models = [*dict.fromkeys([*measures.models, *found["model"]])]
    num_rows, own = -(-len(models) // COLUMNS), radii(measures.run)
    alt = "robust accuracy with rejection against ε, proved and attacked, one panel per model"
    size = (WIDE, 0.7 + 1.95 * num_rows)
    with sheet("fig_proved_and_attacked", alt, size) as (figure, drawn):
        axes = figure.subplots(num_rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
        for axis, model in zip(axes, models, strict=False):
            _bracket_panel(axis, found[found["model"] == model], own.get(model))
            axis.set_title(model)
            axis.set_xlabel("")
        for axis in axes[len(models) :]:
            axis.set_visible(False)
        for axis in axes[: len(models)][-COLUMNS:]:
            axis.set_xlabel("ε, pixel units")
            axis.tick_params(labelbottom=True)
        axes[0].plot([], [], color=PROVED, label="proved")
        axes[0].plot([], [], color=ATTACKED, marker="v", linestyle="none", label="attacked")
        axes[0].fill_between([], [], color=GAP, label="unknown")
        figure.legend(loc="outside lower center", ncols=3)
    strongest = measures.null_aware()
    attacks = f"the {attack_name(strongest)} and all other attacks" if strongest else "all attacks"
    counts = ", ".join(
        f"{model} {' and '.join(f'{n:,}' for n in sorted(of.unique()))}"
        for model, of in others[others["kind"] != "clean"].groupby("model")["num_images"]
    )
    return Drawing(
        "RAR, proved and attacked",
        "Robust accuracy with rejection: correct when clean, and no image within ε is fooled. "
        f"Line: proved by {verifiers_text(measures.run)} on {measures.num_images(PROOF)} test "
        f"images; no attack can lower it. Marks: under {attacks} on {measures.num_images(UNION)} "
        "test images; a stronger attack may lower it. At ε 0: clean images answered correctly. "
        f"{measures.norm(PROOF)}, ε in pixel units, {measures.seeds_text()}; band and error bars: "
        f"{'lowest to highest seed' if len(measures.seeds) > 1 else '95 % Wilson intervals'}. "
        "Dotted: twice the radius of a model that proves its answers. Null-DoS and clean null are "
        f"in the tables.{f' Models of the zoo (n): {counts}.' if counts else ''}",
        drawn,
    )


def _bracket_panel(axis: Axes, found: pd.DataFrame, radius: float | None) -> None:
    found = found.sort_values("eps")
    proved, attacked = (
        found[found["kind"].isin(["clean", kind])] for kind in ("proved", "attacked")
    )
    end = min(proved["eps"].max(), attacked["eps"].max())
    at = sorted(eps for eps in found["eps"].unique() if eps <= end + 1e-9)
    low, high = (np.interp(at, of["eps"], of["rate"]) for of in (proved, attacked))
    # the rates are from different images, so the upper bound may be below the lower one
    axis.fill_between(at, low, np.maximum(low, high), color=GAP, linewidth=0)
    style: dict[str, Any] = {"color": PROVED, "alpha": 0.25, "linewidth": 0}
    axis.fill_between(proved["eps"], proved["low"], proved["high"], **style)
    axis.plot(proved["eps"], proved["rate"], color=PROVED)
    marks = attacked[attacked["kind"] == "attacked"]
    error = [marks["rate"] - marks["low"], marks["high"] - marks["rate"]]
    style = {"color": ATTACKED, "marker": "v", "linestyle": "none", "elinewidth": 0.9, "capsize": 2}
    axis.errorbar(marks["eps"], marks["rate"], yerr=error, **style)
    if radius is not None:
        axis.axvline(2 * radius, color="#777777", linewidth=0.9, linestyle=":")
    rate_axes(axis)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])


def radius(measures: Measures) -> Drawing | None:
    """Outcomes of clean images against the radius of the proof."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    table = by_radius(measures.run)
    if table.empty:
        return None
    own = radii(measures.run)
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
            at = of[(of["radius"] - own[model]).abs() < 1e-6]
            style = {**style, "markersize": 9, "markeredgewidth": 1.8, "linestyle": "none"}
            for axis, outcome in ((above, "correct"), (below, "null"), (below, "fooled")):
                shown = at[at[outcome] > 0]
                axis.plot(shown["radius"], shown[outcome], **style)
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


def answered_refused(measures: Measures) -> Drawing | None:
    """Answered and refused images of the first seed, one panel per model with a radius."""
    own = radii(measures.run)
    trials = [t for t in measures.run.trials if t.model in own and t.examples]
    if not trials:
        return None
    seed = min(trial.seed for trial in trials)
    return Drawing(
        "Answered and refused",
        f"Test images in their order, seed {seed}. Title: the answer, and the margin in logits by "
        "which interval bounds prove the best class within the radius; an answer needs a positive "
        "one. First the first images that are answered when clean, then the same images attacked "
        "(an attack that fools leaves most proved images as they are); "
        "below the first images that are null when clean. Frame: blue correct, grey null, red "
        "fooled. L∞, pixel units.",
        [_pictures_panel(trial, own[trial.model]) for trial in trials if trial.seed == seed],
    )


def picture_rows(trial: Trial, radius: float) -> dict[str, pd.DataFrame]:
    """Pictures by the heading of their row; empty rows are left out.

    Returns:
        Columns pixels (``(H, W)`` or ``(H, W, 3)`` in [0,1]), label, prediction and margin: the
        largest proved margin of a class, positive if the image is answered.
    """
    best: dict[str, Examples] = {}
    for examples in sorted(trial.examples, key=lambda e: abs(e.eps_pixels - 2 * radius)):
        best.setdefault(examples.attack, examples)  # of each attack the ε nearest to 2 radii
    sets = sorted(best.values(), key=lambda examples: "force-null" in examples.attack)
    most = max(sets, key=lambda examples: len(examples.labels))
    clean = _pictures(trial, most, is_clean=True)
    is_null = clean["prediction"] == NULL_LABEL
    answered, refused = clean[~is_null].head(NUM_IMAGES), clean[is_null].head(NUM_IMAGES)
    rows = {"clean, answered": answered}
    for examples in sets:
        attacked = _pictures(trial, examples)
        rows[_heading(examples)] = attacked[attacked.index.isin(answered.index)]
    rows[f"clean, null (of the first {len(clean)})"] = refused
    rows[f"the same, {_heading(most)}"] = _pictures(trial, most).loc[refused.index]
    return {heading: pictures for heading, pictures in rows.items() if len(pictures)}


def _heading(examples: Examples) -> str:
    return f"{attack_name(examples.attack)}, ε {eps_text(examples.eps_pixels)}"


def _pictures(trial: Trial, examples: Examples, *, is_clean: bool = False) -> pd.DataFrame:
    attack, eps = (CLEAN, 0.0) if is_clean else (examples.attack, examples.eps_pixels)
    images = examples.clean if is_clean else examples.adv_images
    rows = trial.rows
    of = rows[(rows["attack"] == attack) & ((rows["eps_pixels"] - eps).abs() < 1e-6)]
    pixels = [image[0] if len(image) < 3 else image[:3].transpose(1, 2, 0) for image in images]
    columns = {
        "pixels": pixels,
        "label": examples.labels,
        "prediction": examples.clean_predictions if is_clean else examples.predictions,
        # the margin is minus the null score, as null's logit is 0
        "margin": -of.set_index("image")["null_score"].reindex(range(len(images))),
    }
    return pd.DataFrame(columns)


def _pictures_panel(trial: Trial, radius: float) -> Panel:
    rows = picture_rows(trial, radius)
    heading = f"{trial.model}, radius {eps_text(radius)}"
    alt = f"images answered and refused by {trial.model}, with the margins of the proofs"
    size = (WIDE, 1.3 * len(rows))
    with sheet(f"fig_answered_refused_{trial.model}", alt, size, heading) as (figure, drawn):
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, (name, pictures) in zip(parts, rows.items(), strict=True):
            part.suptitle(name, x=0.005, ha="left", fontsize=8.5, fontweight="bold")
            axes = part.subplots(1, NUM_IMAGES)
            for axis, picture in zip(axes, pictures.itertuples(), strict=False):
                _draw_picture(axis, picture)
            for axis in axes[len(pictures) :]:
                axis.set_axis_off()
    return drawn[0]


def _draw_picture(axis: Axes, picture: Any) -> None:
    axis.imshow(picture.pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    outcome = outcome_name(picture.prediction, picture.label)
    axis.spines[:].set(visible=True, color=OUTCOME_COLOURS[outcome], linewidth=2.5)
    margin = f"{picture.margin:+.2g}".replace("-", "−")
    label = f" (is {picture.label})" if outcome == "fooled" else ""
    title = f"{answer_text(picture.prediction)}{label} {margin}"
    axis.set_title(title, fontsize=7, pad=3, color=INK)


def certified_training(measures: Measures) -> Drawing | None:
    """Loss, robust share and ε against epochs."""
    histories = measures.run.histories.copy()
    for trial in measures.run.trials:
        eps = training_eps(trial_config(trial).training, len(trial.history))
        of = (histories["model"] == trial.model) & (histories["seed"] == trial.seed)
        histories.loc[of, "eps"] = eps
    columns = {"loss": "Training loss", "train_accuracy": "Robust share at the step's ε"}
    drawing = training(histories, measures.run.info.models, columns | {"eps": "ε of the step"})
    if drawing is None:
        return None
    caption = (
        f"{drawing.caption} Losses differ in kind: worst-case logits within bounds (provable "
        "models and abstain), adversarial images (adversarial-null), clean images (clean). Robust "
        "share: proved, or with a loss on adversarial images not fooled, at the ε of the step in "
        "pixel units."
    )
    return replace(drawing, caption=caption)


FIGURES: dict[str, Figure] = {
    "proved-and-attacked": proved_and_attacked,
    "radius": radius,
    "answered-refused": answered_refused,
    "gallery": lambda measures: gallery(measures.run),
    "training": certified_training,
}
