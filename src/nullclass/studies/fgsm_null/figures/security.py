"""AER and RAR against eps, one line a model, beside what FGSM alone makes one believe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import (
    FGSM,
    Measure,
    Measures,
    attack_name,
)
from nullclass.report.style import line_style, panel, percent_axis
from nullclass.results.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = {
    "aer": "Fooled by some attack (AER)",
    "rar": "Right, and never fooled (RAR)",
}


def security(run: Run) -> Drawing | None:
    """AER, RAR and, for contrast, the null share of FGSM images in the same range of eps."""
    measures = Measures(run)
    budgets = measures.union_budgets()
    if not budgets:
        return None
    reach = 1.05 * max(budgets)
    panels = [
        _panel(measures, UNION, metric, budgets, reach, heading)
        for metric, heading in SHOWN.items()
    ]
    fgsm = [eps for eps in measures.budgets(FGSM) if 0 < eps <= reach]
    contrast = ""
    if fgsm and any(map(measures.has_null, measures.models)):
        panels.append(_panel(measures, FGSM, "null", fgsm, reach, "Null share of FGSM images"))
        contrast = (
            " For contrast, on the same axis, what FGSM alone would show: the share of its images "
            f"called null ({measures.num_images(FGSM)} images)."
        )
    strongest = measures.null_aware()
    who = f"the {attack_name(strongest)} and every other attack" if strongest else "all attacks"
    spread = (
        "bars are 95 % Wilson intervals over the images"
        if len(measures.seeds) == 1
        else "bands reach from the lowest to the highest seed"
    )
    return Drawing(
        "Security curves",
        f"The worst, image by image, of {who}, {measures.num_images(UNION)} images a seed, "
        f"{measures.norm(UNION)}, ε in pixel units, {measures.seeds_text()}; {spread}."
        f"{contrast}",
        panels,
    )


def _panel(
    measures: Measures,
    attack: str,
    metric: str,
    budgets: list[float],
    reach: float,
    heading: str,
) -> Panel:
    with panel(f"security-{metric}", f"{heading} against eps", 3.4) as (axes, drawn):
        axis = axes[0]
        for model in measures.models:
            if metric == "null" and not measures.has_null(model):
                continue
            found = [measures.find(model, attack, metric, eps) for eps in budgets]
            _line(axis, model, [m for m in found if m is not None], measures.models)
        axis.set_ylim(-0.03, 1.03)
        percent_axis(axis.yaxis)
        axis.set_xlim(0, reach)
        axis.set_xlabel("ε, pixel units")
        axis.grid(axis="y")
        axis.figure.legend(loc="outside lower center", ncols=3)
    return Panel(drawn[0], heading)


def _line(axis: Axes, model: str, found: list[Measure], models: list[str]) -> None:
    style = line_style(models, model)
    eps, means = [m.eps for m in found], [m.mean for m in found]
    if all(len(measure.values) > 1 for measure in found):
        lows, highs = [min(m.values) for m in found], [max(m.values) for m in found]
        axis.fill_between(eps, lows, highs, color=style["color"], alpha=0.18, linewidth=0)
        axis.plot(eps, means, label=model, **style)  # type: ignore[arg-type]
        return
    reach = [
        [0.0 if math.isnan(m.low) else max(m.mean - m.low, 0) for m in found],
        [0.0 if math.isnan(m.high) else max(m.high - m.mean, 0) for m in found],
    ]
    axis.errorbar(
        eps,
        means,
        yerr=reach,
        label=model,
        elinewidth=0.9,
        capsize=2,
        **style,  # type: ignore[arg-type]
    )
