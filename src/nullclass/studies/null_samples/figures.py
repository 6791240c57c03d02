"""Figures of the study ``null-samples``, by the report's file names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.report.blocks import Drawing
from nullclass.report.figures.training import training
from nullclass.report.formatting import attack_name, ends_text
from nullclass.report.measures import Measure, Measures
from nullclass.report.sections import Figure
from nullclass.report.style import (
    LINE_COLOURS,
    OUTCOME_LINES,
    WIDE,
    line_style,
    percent_axis,
    sheet,
)
from nullclass.results.schema import CLEAN
from nullclass.studies.null_samples.config import (
    AT_THRESHOLD,
    BASE,
    TRANSFER,
    TRANSFER_AT_THRESHOLD,
    VARIANTS,
    WHITE_BOX_AT_THRESHOLD,
)
from nullclass.studies.null_samples.images import adversarial_samples, null_images
from nullclass.studies.null_samples.tables import SOURCE_SETS, WORDS, at_threshold, sets_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = {"correct": "solid", "null": (0, (5, 1.5)), "fooled": (0, (1.5, 1))}
"""Dashes of the outcomes, for readers who do not see colours."""
COMPARED = {BASE: "solid", "m": (0, (5, 1.5)), "s": (0, (1.5, 1)), "sm": (0, (5, 1.5, 1, 1.5))}
"""Models of the figure that compares some, and their dashes."""
WHITE_BOX = "white-box attack on the model itself"
MARKERS: dict[str, dict[str, Any]] = {
    "measured": {"marker": "o"},
    "published": {"marker": "D", "markersize": 4.5, "markerfacecolor": "white"},
    WHITE_BOX: {"marker": "s", "markersize": 4},
}


def clean_scores(measures: Measures) -> Drawing | None:
    """Clean accuracy by model, measured and published."""
    found = measures.find_all(measures.models, CLEAN, "correct")
    if not found:
        return None
    alt = "clean test accuracy by model, measured and published"
    size = (WIDE / 2, 1.3 + 0.32 * len(found))
    with sheet("fig_test_set_scores", alt, size) as (figure, drawn):
        axis = figure.subplots()
        for row, measure in enumerate(found):
            _dot(axis, row - 0.1, "measured", OUTCOME_LINES["correct"], _mean_and_error(measure))
            _dot(axis, row + 0.15, "published", OUTCOME_LINES["correct"], (measure.published, 0))
        _dress(axis, "correct, no attack", [measure.model for measure in found])
        axis.margins(x=0.12)
        axis.locator_params(axis="x", nbins=3)
        _legend(axis, ("measured", "published"))
    return Drawing(
        "Test accuracy",
        f"{measures.num_images(CLEAN)} test images, no attack; the axis does not start at 0. "
        f"{sets_text(measures)}: {_spread(measures)}. Published: read off a bar plot (a mean for "
        f"{BASE}, medians for the others).",
        drawn,
    )


def scores_at_threshold(measures: Measures) -> Drawing | None:
    """Outcomes at the thresholds: measured, published and white-box."""
    models = [m for m in measures.models if at_threshold(measures, m, "correct")]
    if not models:
        return None
    has_white_box = bool(measures.budgets(WHITE_BOX_AT_THRESHOLD))
    alt = (
        f"{', '.join(WORDS.values())}: rates at threshold by model, measured, published, white-box"
    )
    size = (WIDE, 1.3 + 0.32 * len(models))
    with sheet("fig_scores_at_threshold", alt, size) as (figure, drawn):
        axes = figure.subplots(1, len(WORDS), sharey=True)
        for axis, (outcome, title) in zip(axes, WORDS.items(), strict=True):
            colour = OUTCOME_LINES[outcome]
            for row, model in enumerate(models):
                measure = at_threshold(measures, model, outcome)
                white_box = at_threshold(measures, model, outcome, WHITE_BOX_AT_THRESHOLD)
                published = AT_THRESHOLD.get(model, {}).get(outcome)
                _dot(axis, row - 0.2, "measured", colour, _mean_and_error(measure))
                _dot(axis, row + 0.03, "published", colour, published)
                _dot(axis, row + 0.26, WHITE_BOX, "#222222", _mean_and_error(white_box))
            _dress(axis, title, models)
            axis.set_xlim(-0.05, 1.05)
            axis.set_xticks([0, 0.5, 1])
        _legend(axes[0], [kind for kind in MARKERS if kind != WHITE_BOX or has_white_box])
    caption = (
        f"FGSM on {BASE} of the same set, transferred; each image at the smallest ε (L∞, pixel "
        f"units) that fools {BASE}; {measures.num_images(TRANSFER_AT_THRESHOLD)} images per set. "
    )
    if has_white_box:
        caption += (
            "White-box: the worst-case ensemble on the scored model, at the same ε, on the first "
            f"{measures.num_images(WHITE_BOX_AT_THRESHOLD)} of these images. "
        )
    caption += (
        f"{sets_text(measures)}: {_spread(measures)}. Published: mean ± sd over {SOURCE_SETS} sets."
    )
    return Drawing("Scores at threshold", caption, drawn)


def _dress(axis: Axes, title: str, models: Sequence[str]) -> None:
    """One row per model, rates in percent."""
    axis.set_yticks(range(len(models)), models)
    axis.set_ylim(len(models) - 0.5, -0.5)
    axis.grid(axis="x")
    axis.set_title(title, loc="left", fontsize=8.5)
    percent_axis(axis.xaxis)


def _legend(axis: Axes, kinds: Sequence[str]) -> None:
    for kind in kinds:
        axis.plot([], [], linestyle="none", color="#444444", label=kind, **MARKERS[kind])
    axis.figure.legend(loc="outside lower center", ncols=3)


def _spread(measures: Measures) -> str:
    return "mean ± sd over sets" if len(measures.seeds) > 1 else "95 % Wilson intervals"


def _mean_and_error(measure: Measure | None) -> tuple[float, Any] | None:
    """Mean and length of the error bar: sd over sets, or the Wilson interval of one set."""
    if measure is None:
        return None
    if len(measure.values) > 1:
        return measure.mean, measure.sd
    below, above = measure.error
    return measure.mean, [[below], [above]]


def _dot(axis: Axes, y: float, kind: str, colour: str, rate: tuple[Any, Any] | None) -> None:
    if rate is not None and rate[0] is not None:
        style: dict[str, Any] = {"color": colour, "elinewidth": 1.1, "capsize": 2, **MARKERS[kind]}
        axis.errorbar(rate[0], y, xerr=rate[1], linestyle="none", **style)


def epsilon_thresholds(measures: Measures) -> Drawing | None:
    """Histogram and distribution function of the base models' FGSM thresholds."""
    found = measures.run.thresholds[measures.run.thresholds["selection"] == measures.selection]
    if found.empty:
        return None
    sets = [of["threshold"].to_numpy(dtype=float) for _, of in found.groupby("seed")]
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
    n = ends_text({len(values) for values in sets}, "{:,}")
    band = "Line: median over sets; band: lowest to highest set. " if len(sets) > 1 else ""
    return Drawing(
        "Thresholds of the base models",
        f"The smallest ε, in pixel units (L∞), at which one FGSM step on {BASE} fools {BASE} "
        f"itself; {n} images per set, {sets_text(measures)}. Images that {BASE} misclassifies when "
        f"clean, or still classifies correctly at ε 1, are left out. {band}Median threshold per "
        f"set: {ends_text({float(np.median(values)) for values in sets}, '{:.3f}')}.",
        drawn,
    )


def scores_versus_epsilon(measures: Measures) -> Drawing | None:
    """Outcomes against ε, one panel per model; median and quartiles over sets."""
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
            _dress_curves(axis, model)
        for axis in axes[len(models) :]:
            axis.set_axis_off()
        for axis in axes[: len(models)][-2:]:
            axis.set_xlabel("ε, pixel units")
            axis.tick_params(labelbottom=True)
        handles, labels = axes[len(models) - 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    caption = f"{_curves_caption(measures)} Thin line: {BASE} is fooled."
    return Drawing("Scores against ε", caption, drawn)


def model_comparison(measures: Measures) -> Drawing | None:
    """Outcomes against ε of :data:`COMPARED`, one panel per outcome."""
    attacked = {measure.model for measure in measures.all if measure.attack == TRANSFER}
    models = {model: dashes for model, dashes in COMPARED.items() if model in attacked}
    if len(models) < 2:
        return None
    alt = f"rates of correct, null and fooled against ε, {', '.join(models)} in one panel each"
    name = "fig_scores_versus_epsilon_model_compare"
    with sheet(name, alt, (WIDE, 2.6)) as (figure, drawn):
        axes = figure.subplots(1, len(WORDS), sharey=True)
        for axis, (outcome, title) in zip(axes, WORDS.items(), strict=True):
            for model, dashes in models.items():
                of = _quartiles(measures, model, outcome)
                style = line_style(VARIANTS, model) | {"marker": ""}
                axis.plot(of.index, of[0.5], label=model, linestyle=dashes, **style)
                axis.fill_between(
                    of.index, of[0.25], of[0.75], color=style["color"], alpha=0.18, linewidth=0
                )
            _dress_curves(axis, title)
            axis.set_xlabel("ε, pixel units")
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(models)
        )
    return Drawing("Models compared", _curves_caption(measures), drawn)


def _dress_curves(axis: Axes, title: str) -> None:
    """Axes of rates against ε in [0, 1]."""
    axis.set_title(title, loc="left", fontsize=9)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axis.set_ylim(-0.02, 1.02)
    axis.set_yticks([0, 0.5, 1])
    axis.grid(axis="y")
    percent_axis(axis.yaxis)


def _curves_caption(measures: Measures) -> str:
    spread = "; line: median over sets; band: quartiles" if len(measures.seeds) > 1 else ""
    return (
        f"{attack_name(TRANSFER)} on {BASE} of the same set, transferred; the same ε (L∞, pixel "
        f"units) for all images; {measures.num_images(TRANSFER)} images per set, which {BASE} "
        f"classifies correctly when clean; {sets_text(measures)}{spread}."
    )


def _quartiles(measures: Measures, model: str, outcome: str) -> pd.DataFrame:
    """Quartiles over sets, by ε."""
    values = {measure.eps: measure.values for measure in measures.curve(model, TRANSFER, outcome)}
    return pd.DataFrame.from_dict(values, orient="index").quantile([0.25, 0.5, 0.75], axis=1).T


def training_histories(measures: Measures) -> Drawing | None:
    """Loss, accuracy and selection losses against epochs."""
    columns = {"loss": "Training loss", "train_accuracy": "Training accuracy"}
    is_selecting = len(measures.selections) > 1
    if is_selecting:
        columns |= {f"{name}_loss": f"Selection loss, {name}" for name in measures.selections}
    histories = measures.run.histories[measures.run.histories["selection"] == measures.selection]
    drawing = training(histories, VARIANTS, columns, "fig_training_histories")
    if drawing is None:
        return None
    kept = "The last epoch is kept."
    if is_selecting:
        kept = (
            "Selection loss: after an epoch, on the images of that selection and as many null "
            "images (none for the base model); the epoch with the lowest is kept."
        )
    caption = f"{drawing.caption} Dropout is on. {kept} No attack."
    return replace(drawing, title="Training histories", caption=caption)


FIGURES: dict[str, Figure] = {
    "clean-scores": clean_scores,
    "scores-at-threshold": scores_at_threshold,
    "epsilon-thresholds": epsilon_thresholds,
    "scores-versus-epsilon": scores_versus_epsilon,
    "model-comparison": model_comparison,
    "null-images": null_images,
    "adversarial-samples": adversarial_samples,
    "training-histories": training_histories,
}
