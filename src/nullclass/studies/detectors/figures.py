"""Figures of the study ``detectors``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.formatting import eps_text
from nullclass.report.measures import Measures
from nullclass.report.sections import Figure
from nullclass.report.style import OUTCOME_COLOURS, panel, percent_axis
from nullclass.results.schema import UNION
from nullclass.studies.detectors.measured import (
    least_not_fooled,
    models_on,
    networks,
    rule_of,
)
from nullclass.studies.detectors.tables import NETWORK_TITLES, num_images, unaware_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nullclass.report.measures import Measure

UNAWARE_COLOUR, AWARE_COLOUR = OUTCOME_COLOURS["correct"], OUTCOME_COLOURS["fooled"]
EPS_COLOURS = ("#7A3300", "#D55E00", "#F0B48A")
"""Of the budgets, the largest first."""


def knowledge(measures: Measures) -> Drawing | None:
    """What is not fooled without and with knowledge of the way to refuse, one panel per network."""
    if not measures.union_budgets():
        return None
    eps = measures.union_budgets()[-1]
    panels: list[Panel] = []
    for network in networks(measures):
        models = [m for m in models_on(measures, network) if measures.find(m, UNION, "aer", eps)]
        if not models:
            continue
        with _rules_panel(panels, f"fig_knowledge_{network}", network, models) as axis:
            for at, model in enumerate(models):
                before = least_not_fooled(measures, model, eps)
                fooled = measures.find(model, UNION, "aer", eps)
                after = None if fooled is None else fooled.complement("not_fooled_rate")
                if before is not None and after is not None:
                    ends = [before.mean, after.mean]
                    axis.plot(ends, [at, at], color="#BBBBBB", linewidth=2, zorder=1)
                    axis.plot(ends[:1], [at], "o", color=UNAWARE_COLOUR)
                if after is not None:
                    _dot(axis, at, after, "D", AWARE_COLOUR)
            axis.plot([], [], "o", color=UNAWARE_COLOUR, label="attacker does not know the rule")
            axis.plot([], [], "D", color=AWARE_COLOUR, label="attacker knows the rule")
            axis.set_xlabel("refused or correct under attack")
    names = [name for network in networks(measures) for name in unaware_names(network)]
    models = measures.models
    return Drawing(
        "What an attacker gains by knowing the way to refuse",
        f"Share of images that are not fooled at ε {eps_text(eps)}, {measures.norm(UNION)}, "
        f"{measures.seeds_text()}. Without knowledge: the smallest share of three attacks on the "
        f"network alone ({num_images(measures, models, names)}). With knowledge: one minus AER "
        f"({num_images(measures, models, [UNION])}); {measures.interval_note()}.",
        panels,
    )


def by_eps(measures: Measures) -> Drawing | None:
    """RAR at every ε, one panel per network."""
    at_eps = measures.union_budgets()
    if not at_eps:
        return None
    panels: list[Panel] = []
    for network in networks(measures):
        models = [
            m for m in models_on(measures, network) if measures.find(m, UNION, "rar", at_eps[-1])
        ]
        if not models:
            continue
        with _rules_panel(panels, f"fig_rar_{network}", network, models) as axis:
            for index, eps in enumerate(reversed(at_eps)):
                found = [measures.find(model, UNION, "rar", eps) for model in models]
                _dots(axis, found, EPS_COLOURS[index % len(EPS_COLOURS)], f"ε {eps_text(eps)}")
            axis.set_xlabel("robust accuracy with rejection (RAR)")
    return Drawing(
        "RAR of every way to refuse",
        "Robust accuracy with rejection: correct when clean, and no attack at that ε or below "
        f"fools the model. {measures.norm(UNION)}, ε in pixel units, worst case over all attacks, "
        f"n = {measures.num_images(UNION)}, {measures.seeds_text()}; {measures.interval_note()}.",
        panels,
    )


def _dots(axis: Axes, found: list[Measure | None], colour: str, label: str) -> None:
    for at, measure in enumerate(found):
        if measure is not None:
            _dot(axis, at, measure, "o", colour)
    axis.plot([], [], "o", color=colour, label=label)


def _dot(axis: Axes, at: int, measure: Measure, marker: str, colour: str) -> None:
    below, above = measure.error
    style: dict[str, Any] = {"fmt": marker, "color": colour, "elinewidth": 0.9, "capsize": 2}
    axis.errorbar([measure.mean], [at], xerr=[[below], [above]], **style)


@contextmanager
def _rules_panel(panels: list[Panel], name: str, network: str, models: list[str]) -> Iterator[Axes]:
    """Axes with one line per way to refuse, the first on top, and a share from left to right."""
    alt = f"ways to refuse on {NETWORK_TITLES[network]}"
    height = 1.4 + 0.26 * len(models)
    with panel(panels, name, alt, height, f"On {NETWORK_TITLES[network]}", legend=1) as axis:
        yield axis
        axis.set_yticks(range(len(models)), [rule_of(model) for model in models])
        axis.set_ylim(len(models) - 0.5, -0.5)
        axis.set_xlim(-0.03, 1.03)
        axis.grid(axis="x")
        percent_axis(axis.xaxis)


FIGURES: dict[str, Figure] = {"knowledge": knowledge, "by-eps": by_eps}
