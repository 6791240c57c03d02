"""Correct, null and fooled at every tested ε, as stacked bars."""

from __future__ import annotations

import numpy as np

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.formatting import FGSM, attack_name, eps_text
from nullclass.report.measures import Measures
from nullclass.report.style import OUTCOME_COLOURS, OUTCOME_LEGEND, WIDTH, percent_axis, sheet
from nullclass.results.schema import CLEAN


def outcomes(measures: Measures, unit: float | None = None) -> Drawing | None:
    """One panel per model, one axis per attack, one bar per ε; means over seeds.

    Args:
        measures: Of the run.
        unit: Pixel units per unit of FGSM's ε in the source, if it has units of its own.
    """
    attacks = measures.attacks()
    shown = attacks or [CLEAN]
    panels: list[Panel] = []
    for model in measures.models:
        alt = f"{model}: shares of correct, null and fooled against ε under {', '.join(shown)}"
        size = (WIDTH, 0.35 + 1.75 * len(shown))
        with sheet(f"outcomes-{model}", alt, size, model, is_file=False) as (figure, drawn):
            axes = figure.subplots(len(shown), squeeze=False)[:, 0]
            for axis, attack in zip(axes, shown, strict=True):
                own = unit if attack == FGSM else None
                bars = [(CLEAN, 0.0), *((attack, eps) for eps in measures.budgets(attack) if eps)]
                bottoms = np.zeros(len(bars))
                for outcome in OUTCOME_NAMES:
                    found = [measures.find(model, of, outcome, eps) for of, eps in bars]
                    heights = [0.0 if measure is None else measure.mean for measure in found]
                    style = {"color": OUTCOME_COLOURS[outcome], "edgecolor": "white", "lw": 0.5}
                    axis.bar(range(len(bars)), heights, 0.8, bottoms, **style)
                    bottoms += heights
                axis.set_xticks(range(len(bars)), [_label(eps, own) for _, eps in bars])
                axis.tick_params(axis="x", length=0, labelsize=7.5 if len(bars) < 10 else 6)
                axis.set(xlim=(-0.6, len(bars) - 0.4), ylim=(0, 1), yticks=[0, 0.5, 1])
                percent_axis(axis.yaxis)
                units = "notebook units, pixel units below" if own else "pixel units"
                title = "clean" if attack == CLEAN else f"{attack_name(attack)} · ε in {units}"
                axis.set_title(title, loc="left", fontsize=8.5)
        panels += drawn
    images = [f"Clean: {measures.num_images(CLEAN)} images"]
    images += [
        f"{attack_name(attack)}: {measures.num_images(attack)} images, {measures.norm(attack)}"
        for attack in attacks
    ]
    return Drawing(
        "Outcomes against ε",
        "Share of test images that are correct, null and fooled, clean and under attack. "
        f"{'; '.join(images)}. {'Mean over' if len(measures.seeds) > 1 else 'From'} "
        f"{measures.seeds_text()}.",
        panels,
        OUTCOME_LEGEND,
    )


def _label(eps: float, unit: float | None) -> str:
    """A tick label: the source's unit with pixel units below, or pixel units alone."""
    if eps == 0:
        return "clean"
    # so few digits that seven labels fit side by side
    pixels = f"{eps:.1g}" if eps < 0.01 else f"{eps:.2g}" if unit or eps < 0.1 else eps_text(eps)
    return pixels if unit is None else f"{eps_text(eps / unit)}\n{pixels}"
