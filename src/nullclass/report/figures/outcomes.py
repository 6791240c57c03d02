"""Correct, null and fooled against eps, stacked: one panel a model, one axis an attack.

Bars stand at the tested eps only: nothing is known between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import CLEAN, FGSM, Measures, attack_name, eps_text, pixel_per_unit
from nullclass.report.style import OUTCOME_COLOURS, OUTCOMES, panel, percent_axis
from nullclass.results.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def outcomes(run: Run) -> Drawing | None:
    """Stacked outcome shares of every model under every attack, mean over seeds."""
    measures = Measures(run)
    attacks = measures.attacks()
    unit = pixel_per_unit(run.info)
    panels = []
    for model in measures.models:
        shown = attacks or [CLEAN]
        alt = f"{model}: shares of correct, null and fooled against eps under {', '.join(shown)}"
        with panel(f"outcomes-{model}", alt, 0.35 + 1.75 * len(shown), len(shown)) as (axes, drawn):
            for axis, attack in zip(axes, shown, strict=True):
                _bars(axis, measures, model, attack, unit if attack == FGSM else None)
        panels.append(Panel(drawn[0], model))
    seen = "; ".join(
        f"{attack_name(attack)}: {measures.num_images(attack)} images, {measures.norm(attack)}"
        for attack in attacks
    )
    units = "ε in pixel units"
    if unit is not None:
        units = "ε of FGSM in the notebook's units with pixel units below it, others in pixel units"
    mean = "Mean over" if len(measures.seeds) > 1 else "From"
    return Drawing(
        "Outcomes against ε",
        f"Share of test images answered correctly, with null, and with a wrong class (fooled), "
        f"before and after an attack. Clean: {measures.num_images(CLEAN)} images; {seen}."
        f" {units}. {mean} {measures.seeds_text()}.",
        panels,
        [(word, OUTCOME_COLOURS[word]) for word in OUTCOMES],
    )


def _bars(axis: Axes, measures: Measures, model: str, attack: str, unit: float | None) -> None:
    places = [(CLEAN, 0.0), *((attack, eps) for eps in measures.budgets(attack) if eps > 0)]
    labels = [eps_label(eps, unit) for _, eps in places]
    bottoms = [0.0] * len(places)
    for word in OUTCOMES:
        found = [measures.find(model, of, word, eps) for of, eps in places]
        heights = [0.0 if measure is None else measure.mean for measure in found]
        axis.bar(
            range(len(places)),
            heights,
            bottom=bottoms,
            width=0.82,
            color=OUTCOME_COLOURS[word],
            edgecolor="white",
            linewidth=0.5,
        )
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axis.set_xticks(range(len(places)), labels)
    axis.tick_params(axis="x", length=0, labelsize=7.5 if len(places) < 10 else 6)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1])
    percent_axis(axis.yaxis)
    axis.set_xlim(-0.6, len(places) - 0.4)
    told = "ε: notebook units, pixel units below" if unit else "ε in pixel units"
    if attack == CLEAN:
        axis.set_title("clean", loc="left", fontsize=9)
    else:
        axis.set_title(f"{attack_name(attack)} · {told}", loc="left", fontsize=8.5)


def eps_label(eps: float, unit: float | None) -> str:
    """A tick's label: the source's unit with pixel units below it, or pixel units alone."""
    if eps == 0:
        return "clean"
    # so few digits of pixel units that seven labels fit beside each other
    pixels = f"{eps:.1g}" if eps < 0.01 else f"{eps:.2g}" if unit or eps < 0.1 else eps_text(eps)
    return pixels if unit is None else f"{eps_text(eps / unit)}\n{pixels}"
