"""Fooled at the same thresholds: the transferred attack, and one made on each model itself."""

from __future__ import annotations

from nullclass.report.blocks import Drawing
from nullclass.report.measures import OWN_BUDGET, Measures
from nullclass.report.style import OUTCOME_COLOURS, WIDTH, percent_axis, sheet
from nullclass.results.store import Run
from nullclass.studies.null_samples.config import (
    BASE,
    TRANSFER_AT_THRESHOLD,
    WHITE_BOX_AT_THRESHOLD,
)

FILE = "fig_white_box"
LOOKS = {
    TRANSFER_AT_THRESHOLD: (-0.2, "#F4C2A0", "FGSM transferred from base"),
    WHITE_BOX_AT_THRESHOLD: (
        0.2,
        OUTCOME_COLOURS["fooled"],
        "worst-case ensemble on the model itself",
    ),
}
"""Offset, colour and name of the two attacks' bars."""


def white_box(run: Run) -> Drawing | None:
    """Two bars a model."""
    measures = Measures(run)
    if not measures.budgets(WHITE_BOX_AT_THRESHOLD):
        return None
    alt = "share fooled at threshold by model: transferred attack and white-box attack"
    with sheet(FILE, alt, (WIDTH, 1 + 0.42 * len(measures.models))) as (figure, drawn):
        axis = figure.subplots()
        for attack, (offset, colour, name) in LOOKS.items():
            found = [measures.find(m, attack, "fooled", OWN_BUDGET) for m in measures.models]
            shown = [(p, m) for p, m in enumerate(found) if m is not None]
            axis.barh(
                [place + offset for place, _ in shown],
                [measure.mean for _, measure in shown],
                height=0.36,
                color=colour,
                label=name,
            )
            for place, measure in shown:
                low, high = measure.interval
                axis.errorbar(
                    measure.mean,
                    place + offset,
                    xerr=[[measure.mean - low], [high - measure.mean]],
                    color="#333333",
                    elinewidth=0.9,
                    capsize=2,
                )
                axis.annotate(
                    f"{100 * measure.mean:.1f}",
                    (high, place + offset),
                    (3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7.5,
                )
        axis.set_yticks(range(len(measures.models)), measures.models)
        axis.set_ylim(len(measures.models) - 0.5, -0.5)
        axis.set_xlim(0, 1.12)  # room for the number beside a full bar
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axis.grid(axis="x")
        percent_axis(axis.xaxis)
        figure.legend(loc="outside lower center", ncols=1)
    several = len(measures.seeds) > 1
    return Drawing(
        "Transferred and white-box",
        f"Share of images fooled (a wrong digit), each at the threshold of {BASE} (L∞, pixel "
        f"units). Light: FGSM made on {BASE} of the same set, "
        f"{measures.num_images(TRANSFER_AT_THRESHOLD)} images a set. Dark: the worst-case ensemble "
        "made on the model that is scored, the first "
        f"{measures.num_images(WHITE_BOX_AT_THRESHOLD)} of the same images. "
        f"{measures.seeds_text('set')}, models selected on {measures.selection} images; bars reach "
        f"{'from the lowest to the highest set' if several else 'over the 95 % Wilson interval'}.",
        drawn,
    )
