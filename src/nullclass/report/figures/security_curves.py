"""What the union of all attacks leaves of one model, against eps: AER, RAR, strict, null-DoS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nullclass.metrics.rates import PROOF, UNION, wilson
from nullclass.report.blocks import Drawing
from nullclass.report.evaluation_tables import MEANINGS, RATES
from nullclass.report.judged import WorstCaseTable, judged, only_trial
from nullclass.report.measures import Measure, Measures
from nullclass.report.style import WIDTH, percent_axis, sheet
from nullclass.results.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "fig_security_curves"

PROVED = "RAR proved: no attack leaves less"
"""The line from below."""

LOOKS = {
    "aer": ("#D55E00", "solid", "o"),
    "rar": ("#0072B2", "solid", "s"),
    "strict": ("#009E73", (0, (4, 1.5)), "^"),
    "null_dos": ("#7C828A", (0, (1.5, 1)), "D"),
}
"""Colour, dashes and marker; so that the lines are told apart without colour."""


def security_curves(run: Run) -> Drawing | None:
    """A line a rate, with its interval as a band; at eps 0 stands the clean image alone."""
    trial = only_trial(run)
    if trial is None:
        return None
    measures = Measures(run)
    shown = [metric for metric in RATES if measures.union_budgets(metric)]
    if not shown:
        return None
    start = clean_counts(judged(trial.rows))
    alt = f"{', '.join(RATES[metric] for metric in shown)} of {trial.model} against eps"
    with sheet(FILE, alt, (WIDTH, 3.9)) as (figure, drawn):
        axis = figure.subplots()
        for metric in shown:
            _curve(axis, metric, points(measures, trial.model, metric, start[metric]))
        found = (
            measures.find(trial.model, PROOF, "rar_proved", eps) for eps in measures.budgets(PROOF)
        )
        proved = [measure for measure in found if measure is not None]
        if proved:
            _proved(axis, proved)
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlim(left=0)
        axis.margins(x=0.02)
        axis.set_xlabel("ε, pixel units")
        axis.grid(axis="y")
        percent_axis(axis.yaxis)
        figure.legend(loc="outside lower center", ncols=1)
    return Drawing(
        "Security curves",
        f"The worst, image by image, of all attacks at that ε or below, {measures.norm(UNION)}, "
        f"{measures.num_images(UNION)} images, {measures.seeds_text()}. Points: the ε that were "
        "tried, and at 0 the clean images alone; bands: 95 % Wilson intervals over the images. "
        "Lines only join the points: between two the rates lie somewhere between theirs."
        + (f" {_PROVED_TOLD}" if proved else ""),
        drawn,
        is_large=True,
    )


_PROVED_TOLD = (
    "Dashed with crosses: the RAR that is proved; no attack, made or not, gets below it, so the "
    "true one lies between it and the RAR that the attacks left."
)


def _proved(axis: Axes, proved: list[Measure]) -> None:
    """The RAR that is proved, in the colour of the one attacked."""
    colour, _, _ = LOOKS["rar"]
    at, means = [m.eps for m in proved], [m.mean for m in proved]
    axis.plot(at, means, color=colour, linestyle=(0, (2, 1)), marker="x", label=PROVED)
    lows, highs = [m.low for m in proved], [m.high for m in proved]
    axis.fill_between(at, lows, highs, color=colour, alpha=0.08, linewidth=0)


def clean_counts(of: WorstCaseTable) -> dict[str, tuple[int, int]]:
    """What the rates are without any attack: images and all images."""
    num_right = int((of.clean["outcome"] == "correct").sum())
    num_fooled = int((of.clean["outcome"] == "fooled").sum())
    counts = {"aer": num_fooled, "rar": num_right, "strict": num_right, "null_dos": 0}
    return {metric: (count, len(of.clean)) for metric, count in counts.items()}


def points(
    measures: Measures, model: str, metric: str, start: tuple[int, int]
) -> list[tuple[float, float, float, float]]:
    """Eps, rate and both ends of its interval, from the clean images on."""
    num, total = start
    found = [measures.find(model, UNION, metric, eps) for eps in measures.union_budgets(metric)]
    return [
        (0.0, num / total, *wilson(num, total)),
        *((m.eps, m.mean, m.low, m.high) for m in found if m is not None),
    ]


def _curve(axis: Axes, metric: str, told: list[tuple[float, float, float, float]]) -> None:
    colour, dashes, marker = LOOKS[metric]
    at, means, lows, highs = zip(*told, strict=True)
    axis.fill_between(at, lows, highs, color=colour, alpha=0.15, linewidth=0)
    axis.plot(at, means, color=colour, linestyle=dashes, marker=marker, label=MEANINGS[metric])
