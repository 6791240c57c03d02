"""Figures of the study ``fgsm-null``."""

from __future__ import annotations

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.outcomes import outcomes
from nullclass.report.figures.training import training
from nullclass.report.formatting import FGSM, attack_name
from nullclass.report.measures import Measures
from nullclass.report.sections import Figure
from nullclass.report.style import curve, line_style, panel, rate_axes
from nullclass.results.schema import UNION
from nullclass.studies.fgsm_null.config import PIXEL


def security(measures: Measures) -> Drawing | None:
    """AER, RAR and, for contrast, the null rate of FGSM images against ε, one line per model."""
    budgets = measures.union_budgets()
    if not budgets:
        return None
    end = 1.05 * max(budgets)
    nulls = [model for model in measures.models if measures.has_null(model)]
    panels: list[Panel] = []
    for attack, metric, models, heading in (
        (UNION, "aer", measures.models, "Fooled by some attack (AER)"),
        (UNION, "rar", measures.models, "Correct and never fooled (RAR)"),
        (FGSM, "null", nulls, "Null rate of FGSM images"),
    ):
        lines = {
            model: [m for m in measures.curve(model, attack, metric) if m.eps <= end]
            for model in models
        }
        if not any(lines.values()):
            continue
        name, alt = f"security-{metric}", f"{heading} against ε"
        with panel(panels, name, alt, 3.4, heading, legend=3, is_file=False) as axis:
            for model, line in lines.items():
                curve(axis, line, label=model, **line_style(measures.models, model))
            rate_axes(axis)
            axis.set_xlim(0, end)
    strongest = measures.null_aware()
    attacks = f"the {attack_name(strongest)} and all other attacks" if strongest else "all attacks"
    contrast = (
        " For contrast, on the same axis: the share of FGSM images that are answered null "
        f"({measures.num_images(FGSM)} images)."
    )
    return Drawing(
        "Security curves",
        f"Worst case per image over {attacks}, {measures.num_images(UNION)} images per seed, "
        f"{measures.norm(UNION)}, ε in pixel units, {measures.seeds_text()}; "
        f"{measures.interval_note()}.{contrast if len(panels) > 2 else ''}",
        panels,
    )


FIGURES: dict[str, Figure] = {
    "outcomes": lambda measures: outcomes(measures, PIXEL),
    "security": security,
    "gallery": lambda measures: gallery(measures.run, PIXEL),
    "training": lambda measures: training(measures.run.histories, measures.models),
}
