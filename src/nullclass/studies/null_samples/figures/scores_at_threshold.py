"""Correct, fooled and null at each image's own threshold, beside the published table."""

from __future__ import annotations

from typing import Any

from nullclass.report.blocks import Drawing
from nullclass.report.measures import OWN_BUDGET, Measure, Measures
from nullclass.report.style import OUTCOME_LINES, WIDE, percent_axis, sheet
from nullclass.results.store import Run
from nullclass.studies.null_samples.config import AT_THRESHOLD, BASE, TRANSFER_AT_THRESHOLD

FILE = "fig_scores_at_threshold"
OUTCOMES = {
    "correct": "correct",
    "fooled": "misclassified (fooled)",
    "null": "unclassified (null)",
}
"""Outcomes by the source's words, in its order."""


def scores_at_threshold(run: Run) -> Drawing | None:
    """Three axes; in each a model's mean and sd, the published ones below it."""
    from matplotlib.lines import Line2D

    measures = Measures(run)
    models = [m for m in measures.models if _found(measures, m, "correct") is not None]
    if not models:
        return None
    alt = "shares of correct, fooled and null at threshold by model, measured and published"
    with sheet(FILE, alt, (WIDE, 1.2 + 0.3 * len(models))) as (figure, drawn):
        for axis, (outcome, word) in zip(
            figure.subplots(1, len(OUTCOMES), sharey=True), OUTCOMES.items(), strict=True
        ):
            colour = OUTCOME_LINES[outcome]
            for place, model in enumerate(models):
                measure = _found(measures, model, outcome)
                if measure is not None:
                    axis.errorbar(
                        measure.mean,
                        place - 0.14,
                        xerr=measure.sd if len(measure.values) > 1 else 0.0,
                        fmt="o",
                        color=colour,
                        elinewidth=1.4,
                        capsize=2.5,
                    )
                if model in AT_THRESHOLD:
                    mean, sd = AT_THRESHOLD[model][outcome]
                    axis.errorbar(
                        mean,
                        place + 0.2,
                        xerr=sd,
                        fmt="D",
                        markersize=4.5,
                        markerfacecolor="white",
                        color=colour,
                        alpha=0.75,
                        elinewidth=0.9,
                        capsize=2,
                    )
            axis.set_yticks(range(len(models)), models)
            axis.set_ylim(len(models) - 0.5, -0.5)
            axis.set_xlim(-0.04, 1.04)
            axis.set_xticks([0, 0.5, 1])
            axis.grid(axis="x")
            percent_axis(axis.xaxis)
            axis.set_title(word, loc="left", fontsize=9)
        grey: dict[str, Any] = {"linestyle": "none", "color": "#555555"}
        handles = [
            Line2D([], [], marker="o", label="measured", **grey),
            Line2D([], [], marker="D", markerfacecolor="white", label="published", **grey),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    spread = "mean ± sd over sets" if len(measures.seeds) > 1 else "one set, no spread"
    return Drawing(
        "Scores at threshold",
        f"FGSM made on {BASE} of the same set and transferred, each image at the smallest ε (L∞, "
        f"pixel units) that makes {BASE} err; {measures.num_images(TRANSFER_AT_THRESHOLD)} images "
        f"a set, {measures.seeds_text('set')}, models selected on {measures.selection} images. "
        f"Dots: {spread}; diamonds: the source's mean ± sd over 30 sets.",
        drawn,
    )


def _found(measures: Measures, model: str, outcome: str) -> Measure | None:
    return measures.find(model, TRANSFER_AT_THRESHOLD, outcome, OWN_BUDGET)
