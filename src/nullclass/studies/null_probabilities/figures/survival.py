"""What the worst of all attacks leaves of every model: right under all, refused, fooled."""

from __future__ import annotations

from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import Measures, attack_name, eps_text
from nullclass.report.style import OUTCOME_COLOURS, WIDTH, percent_axis, sheet
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.defences import short


def survival(run: Run) -> Drawing | None:
    """A panel an eps, a stacked bar a model."""
    measures = Measures(run)
    budgets = measures.union_budgets()
    if not budgets:
        return None
    strongest = measures.null_aware()
    who = f"the {attack_name(strongest)} and every other attack" if strongest else "all attacks"
    several = len(measures.seeds) > 1
    return Drawing(
        "White-box: what the worst attack leaves",
        f"Each image counts once, by the worst of {who} at that ε or below and of the clean image: "
        "fooled by some (AER, the number at the right, in %); else refused by some; else right "
        "under all. The bars' "
        f"ends: {'lowest and highest seed' if several else '95 % Wilson interval'} of AER. "
        f"{measures.norm(UNION)}, ε in pixel units, {measures.num_images(UNION)} test images, "
        f"{measures.seeds_text()}{', means' if several else ''}.",
        [_panel(measures, eps) for eps in budgets],
        [
            ("right under all", OUTCOME_COLOURS["correct"]),
            ("refused by some, never fooled", OUTCOME_COLOURS["null"]),
            ("fooled by some", OUTCOME_COLOURS["fooled"]),
        ],
    )


def _panel(measures: Measures, eps: float) -> Panel:
    models = [m for m in measures.models if measures.find(m, UNION, "aer", eps) is not None]
    heading = f"ε {eps_text(eps)}"
    alt = f"shares right under all attacks, refused by some and fooled by some at {heading}"
    size = (WIDTH, 0.6 + 0.33 * len(models))
    with sheet(f"fig_white_box_{eps:g}", alt, size) as (figure, drawn):
        axis = figure.subplots()
        for place, model in enumerate(models):
            aer = measures.find(model, UNION, "aer", eps)
            strict = measures.find(model, UNION, "strict", eps)
            if aer is None:
                continue
            right = 0.0 if strict is None else strict.mean
            refused = max(0.0, 1 - aer.mean - right)
            left = 0.0
            for share, word in ((right, "correct"), (refused, "null"), (aer.mean, "fooled")):
                colour = OUTCOME_COLOURS[word]
                axis.barh(place, share, left=left, height=0.72, color=colour, linewidth=0)
                left += share
            low, high = aer.interval
            axis.errorbar(
                1 - aer.mean,
                place,
                xerr=[[high - aer.mean], [aer.mean - low]],
                color="#1D1F22",
                elinewidth=0.9,
                capsize=2,
            )
            axis.annotate(
                f"{100 * aer.mean:.1f}",
                (1, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                annotation_clip=False,
            )
        axis.set_yticks(range(len(models)), list(map(short, models)))
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(len(models) - 0.4, -0.6)
        axis.set_xlim(0, 1.1)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axis.spines["left"].set_visible(False)
        percent_axis(axis.xaxis)
    (panel,) = drawn
    return Panel(panel.html, heading, panel.file, panel.svg, panel.png)
