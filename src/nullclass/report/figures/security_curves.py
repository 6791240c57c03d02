"""Worst-case rates of one model against ε: AER, RAR, strict robust accuracy, null-DoS."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nullclass.metrics.rates import wilson
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import Measure, Measures
from nullclass.report.style import curve, panel, rate_axes
from nullclass.report.tables import MEANINGS, UNION_RATES
from nullclass.report.worst_case import worst_case_table
from nullclass.results.run import Trial
from nullclass.results.schema import PROOF, UNION

STYLES: dict[str, dict[str, Any]] = {
    "aer": {"color": "#D55E00", "linestyle": "solid", "marker": "o"},
    "rar": {"color": "#0072B2", "linestyle": "solid", "marker": "s"},
    "strict": {"color": "#009E73", "linestyle": (0, (4, 1.5)), "marker": "^"},
    "null_dos": {"color": "#7C828A", "linestyle": (0, (1.5, 1)), "marker": "D"},
}
"""Dashes and markers differ too, so that the lines are distinct without colour."""
PROVED_STYLE = STYLES["rar"] | {"linestyle": (0, (2, 1)), "marker": "x"}
PROVED_NOTE = (
    " Dashed with crosses: the proved lower bound of RAR, against every attack. The true RAR is "
    "between it and the RAR under these attacks."
)


def security_curves(trial: Trial, measures: Measures) -> Drawing | None:
    """One line per rate with its interval as a band; ε 0 is the clean image alone."""
    model, clean = trial.model, worst_case_table(trial.rows).clean["outcome"]
    shown = [metric for metric in UNION_RATES if measures.union_budgets(metric)]
    if not shown:
        return None
    proved = measures.curve(model, PROOF, "rar_proved")
    panels: list[Panel] = []
    alt = f"{', '.join(UNION_RATES[metric] for metric in shown)} of {model} against ε"
    with panel(panels, "fig_security_curves", alt, 3.9, legend=1) as axis:
        for metric in shown:
            found = points(measures, clean, model, metric)
            curve(axis, found, band=True, alpha=0.15, label=MEANINGS[metric], **STYLES[metric])
        if proved:
            label = "RAR, proved lower bound"
            curve(axis, proved, band=True, alpha=0.08, label=label, **PROVED_STYLE)
        rate_axes(axis)
        axis.margins(x=0.02)
    return Drawing(
        "Security curves",
        f"Worst case per image over all attacks at that ε or below, {measures.norm(UNION)}, "
        f"{measures.num_images(UNION)} images, {measures.seeds_text()}. Points: the tested ε, and "
        "at 0 the clean images; bands: 95 % Wilson intervals over the images. Between two points "
        f"the rates are between theirs.{PROVED_NOTE if proved else ''}",
        panels,
        is_large=True,
    )


def points(measures: Measures, clean: pd.Series, model: str, metric: str) -> list[Measure]:
    """A rate at every ε, ascending, from the outcomes of the clean images on."""
    counts = {"aer": (clean == "fooled").sum(), "null_dos": 0}  # without attack nothing turns null
    count, total = int(counts.get(metric, (clean == "correct").sum())), len(clean)
    low, high = wilson(count, total)
    first = Measure(model, UNION, metric, (count / total,), low=low, high=high, num_images=total)
    return [first, *measures.curve(model, UNION, metric)]
