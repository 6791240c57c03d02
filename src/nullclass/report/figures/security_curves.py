"""Worst-case rates of one model against ε: AER, RAR, strict robust accuracy, null-DoS."""

from __future__ import annotations

from typing import Any

from nullclass.metrics.rates import PROOF, UNION, wilson
from nullclass.report.blocks import Drawing
from nullclass.report.measures import Measure, Measures
from nullclass.report.style import WIDTH, curve, rate_axes, sheet
from nullclass.report.tables import MEANINGS, RATES
from nullclass.report.worst_case import WorstCaseTable, only_trial, worst_case_table
from nullclass.results.store import Run

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


def security_curves(run: Run) -> Drawing | None:
    """One line per rate with its interval as a band; ε 0 is the clean image alone."""
    trial = only_trial(run)
    if trial is None:
        return None
    measures = Measures(run)
    shown = [metric for metric in RATES if measures.union_budgets(metric)]
    if not shown:
        return None
    model, table = trial.model, worst_case_table(trial.rows)
    bounds = [measures.find(model, PROOF, "rar_proved", eps) for eps in measures.budgets(PROOF)]
    proved = [measure for measure in bounds if measure is not None]
    alt = f"{', '.join(RATES[metric] for metric in shown)} of {model} against ε"
    with sheet("fig_security_curves", alt, (WIDTH, 3.9)) as (figure, drawn):
        axis = figure.subplots()
        for metric in shown:
            found = points(measures, table, model, metric)
            label = MEANINGS[metric]
            curve(axis, found, band=True, alpha=0.15, label=label, **STYLES[metric])
        if proved:
            label = "RAR, proved lower bound"
            curve(axis, proved, band=True, alpha=0.08, label=label, **PROVED_STYLE)
        rate_axes(axis)
        axis.margins(x=0.02)
        figure.legend(loc="outside lower center", ncols=1)
    return Drawing(
        "Security curves",
        f"Worst case per image over all attacks at that ε or below, {measures.norm(UNION)}, "
        f"{measures.num_images(UNION)} images, {measures.seeds_text()}. Points: the tested ε, and "
        "at 0 the clean images; bands: 95 % Wilson intervals over the images. Between two points "
        f"the rates are between theirs.{PROVED_NOTE if proved else ''}",
        drawn,
        is_large=True,
    )


def points(measures: Measures, table: WorstCaseTable, model: str, metric: str) -> list[Measure]:
    """A rate at every ε, ascending, from the clean images on."""
    outcomes = table.clean["outcome"]
    counts = {"aer": int((outcomes == "fooled").sum()), "null_dos": 0}
    count, total = counts.get(metric, int((outcomes == "correct").sum())), len(outcomes)
    low, high = wilson(count, total)
    clean = Measure(model, UNION, metric, (count / total,), low=low, high=high, num_images=total)
    found = [measures.find(model, UNION, metric, eps) for eps in measures.union_budgets(metric)]
    return [clean, *(measure for measure in found if measure is not None)]
