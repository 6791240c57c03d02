"""Accuracy on clean test images, by model, beside the source's."""

from __future__ import annotations

from nullclass.report.blocks import Drawing
from nullclass.report.measures import Measures
from nullclass.report.style import OUTCOME_COLOURS, WIDTH, percent_axis, sheet
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run

FILE = "fig_test_set_scores"
PUBLISHED = "#555555"


def clean_scores(run: Run) -> Drawing | None:
    """Mean and sd over sets, every set a dot, the published value a diamond."""
    measures = Measures(run)
    found = [measures.find(model, CLEAN, "correct") for model in measures.models]
    shown = [measure for measure in found if measure is not None]
    if not shown:
        return None
    alt = "accuracy on clean test images by model, measured and published"
    with sheet(FILE, alt, (WIDTH, 3.2)) as (figure, drawn):
        axis = figure.subplots()
        for place, measure in enumerate(shown):
            colour = OUTCOME_COLOURS["correct"]
            axis.plot(
                [place - 0.18] * len(measure.values),
                measure.values,
                linestyle="none",
                marker=".",
                markersize=5,
                color=colour,
                alpha=0.35,
                markeredgewidth=0,
            )
            sd = measure.sd if len(measure.values) > 1 else 0.0
            axis.errorbar(
                place,
                measure.mean,
                yerr=sd,
                fmt="o",
                color=colour,
                elinewidth=1.2,
                capsize=3,
                label="measured" if place == 0 else None,
            )
            if measure.published is not None:
                axis.plot(
                    place + 0.22,
                    measure.published,
                    linestyle="none",
                    marker="D",
                    markersize=5,
                    markerfacecolor="none",
                    color=PUBLISHED,
                    label="published" if place == 0 else None,
                )
        axis.set_xticks(range(len(shown)), [measure.model for measure in shown])
        axis.set_xlim(-0.6, len(shown) - 0.4)
        axis.margins(y=0.12)
        axis.grid(axis="y")
        percent_axis(axis.yaxis)
        named = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(
            [named[word] for word in ("measured", "published") if word in named],
            [word for word in ("measured", "published") if word in named],
            loc="outside lower center",
            ncols=2,
        )
    spread = (
        "Each set a small dot; the large dot is the mean, its bar one sd over sets."
        if len(measures.seeds) > 1
        else "One set, so no spread."
    )
    return Drawing(
        "Scores on the test set",
        f"Share of clean test images answered rightly (no attack), {measures.num_images(CLEAN)} "
        f"images, {measures.seeds_text('set')}, models selected on {measures.selection} images. "
        f"{spread} Diamonds: read off the source's bar plot, to about 0.1 points.",
        drawn,
    )
