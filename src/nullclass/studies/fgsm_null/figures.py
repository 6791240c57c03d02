"""Figures of the study ``fgsm-null``."""

from __future__ import annotations

from nullclass.metrics.rates import UNION, wilson
from nullclass.report.blocks import Drawing
from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.outcomes import eps_label, outcomes
from nullclass.report.figures.training import training
from nullclass.report.formatting import FGSM, attack_name
from nullclass.report.measures import Measures
from nullclass.report.sections import Figure
from nullclass.report.style import (
    OUTCOME_COLOURS,
    WIDTH,
    curve,
    line_style,
    rate_axes,
    sheet,
    stacked_bars,
)
from nullclass.results.store import Run
from nullclass.studies.fgsm_null.config import PIXEL
from nullclass.studies.fgsm_null.tables import undetected


def security(run: Run) -> Drawing | None:
    """AER, RAR and, for contrast, the null rate of FGSM images against ε, one line per model."""
    measures = Measures(run)
    budgets = measures.union_budgets()
    if not budgets:
        return None
    end = 1.05 * max(budgets)
    fgsm = [eps for eps in measures.budgets(FGSM) if 0 < eps <= end]
    nulls = [model for model in measures.models if measures.has_null(model)]
    panels = []
    for attack, metric, at, models, heading in (
        (UNION, "aer", budgets, measures.models, "Fooled by some attack (AER)"),
        (UNION, "rar", budgets, measures.models, "Correct and never fooled (RAR)"),
        (FGSM, "null", fgsm, nulls, "Null rate of FGSM images"),
    ):
        if not at or not models:
            continue
        alt = f"{heading} against ε"
        with sheet(f"security-{metric}", alt, (WIDTH, 3.4), heading, is_file=False) as (
            figure,
            drawn,
        ):
            axis = figure.subplots()
            for model in models:
                found = [measures.find(model, attack, metric, eps) for eps in at]
                style = line_style(measures.models, model)
                curve(axis, [m for m in found if m is not None], label=model, **style)
            rate_axes(axis)
            axis.set_xlim(0, end)
            figure.legend(loc="outside lower center", ncols=3)
        panels += drawn
    strongest = measures.null_aware()
    attacks = f"the {attack_name(strongest)} and all other attacks" if strongest else "all attacks"
    spread = (
        "error bars: 95 % Wilson intervals over the images"
        if len(measures.seeds) == 1
        else "bands: lowest to highest seed"
    )
    contrast = (
        " For contrast, on the same axis: the share of FGSM images that are answered null "
        f"({measures.num_images(FGSM)} images)."
    )
    return Drawing(
        "Security curves",
        f"Worst case per image over {attacks}, {measures.num_images(UNION)} images per seed, "
        f"{measures.norm(UNION)}, ε in pixel units, {measures.seeds_text()}; {spread}."
        f"{contrast if len(panels) > 2 else ''}",
        panels,
    )


def undetected_images(run: Run) -> Drawing | None:
    """Share of FGSM images that are neither null nor correct, against ε."""
    measures, counts = Measures(run), undetected(run)
    panels = []
    for model in measures.models:
        of = counts[counts["model"] == model].sort_values("eps_pixels")
        if of.empty:
            continue
        alt = f"{model}: share of FGSM images that are neither null nor correct, against ε"
        with sheet(f"undetected-{model}", alt, (WIDTH, 2.3), model, is_file=False) as (
            figure,
            drawn,
        ):
            axis = figure.subplots()
            labels = [eps_label(eps, PIXEL) for eps in of["eps_pixels"]]
            shares = [*(of["num_fooled"] / of["num_images"])]
            style = {"color": OUTCOME_COLOURS["fooled"], "edgecolor": "none"}
            stacked_bars(axis, labels, [(shares, style)], width=0.7)
            for index, (num, total) in enumerate(
                zip(of["num_fooled"], of["num_images"], strict=True)
            ):
                low, high = wilson(int(num), int(total))
                bar = [[shares[index] - low], [high - shares[index]]]
                axis.errorbar(index, shares[index], bar, color="#333333", elinewidth=0.9, capsize=2)
                # at most five characters, so that seven numbers fit side by side
                text = f"{num:,}" if num < 10_000 else f"{num / 1000:.3g}k"
                axis.annotate(
                    text, (index, high), (0, 3), textcoords="offset points", ha="center", fontsize=7
                )
            axis.set_ylim(0, 1.25)  # room for the numbers above a full bar
        panels += drawn
    if not panels:
        return None
    return Drawing(
        "FGSM images that are not detected",
        f"FGSM, {measures.num_images(FGSM)} images, {measures.seeds_text()}"
        f"{' together' if len(measures.seeds) > 1 else ''}; ε in the notebook's units, pixel units "
        "below. Bars: share of the attacked images that are neither null nor correct, with its "
        "95 % Wilson interval and the number of such images.",
        panels,
        [("fooled", OUTCOME_COLOURS["fooled"])],
    )


FIGURES: dict[str, Figure] = {
    "outcomes": outcomes,
    "security": security,
    "undetected": undetected_images,
    "gallery": gallery,
    "training": training,
}
