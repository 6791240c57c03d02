"""Figures of the study ``null-probabilities``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.training import training
from nullclass.report.formatting import attack_name, ends_text, eps_text
from nullclass.report.measures import Measures
from nullclass.report.sections import Figure
from nullclass.report.style import (
    INK,
    OUTCOME_COLOURS,
    OUTCOME_LEGEND,
    WIDE,
    WIDTH,
    percent_axis,
    sheet,
)
from nullclass.results.null_curve import NullCurve
from nullclass.studies.null_probabilities.config import QUERIED, SUBSTITUTES, TRANSFERS, VARIANTS
from nullclass.studies.null_probabilities.measured import SHARES, by_size, transfer_table
from nullclass.studies.null_probabilities.names import NORMS, SIZES, short, size_text, with_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STACKED = ("null", "fooled", "correct")
"""From the bottom of a stack."""
LAYERS = {"mean probability": SHARES, "share of images": STACKED}
"""The columns of data behind the two columns of the figure by size."""
UNITS = "L∞ and L2 in pixel units; L0 is the share of pixels changed."
HEAT = ("#FFFFFF", "#F6C9A8", "#D55E00", "#7A3300")


def null_curves(measures: Measures) -> Drawing | None:
    """Null curves and the rates they were fitted to, one panel per norm."""
    fitted = measures.run.curves
    by = {norm: [c.curve for c in fitted if c.curve.norm == norm] for norm in NORMS}
    by = {norm: curves for norm, curves in by.items() if curves}
    if not by:
        return None
    seeds = sorted({c.seed for c in fitted})
    counts = " to ".join(f"{n:,}" for n in sorted({c.curve.num_images for c in fitted}))
    makers = (f"{NORMS[norm]}: {attack_name(of[0].perturbation)}" for norm, of in by.items())
    return Drawing(
        "The null curves f",
        "Dots: share of held-out images, correct when clean, on which a perturbation of that size "
        "fools the clean model. Line: f, these rates made monotone by isotonic regression, divided "
        "by the rate that counts as always, and cut at 1. Dotted: the smallest size where f is 1, "
        f"the end of the trained range. Perturbations of the clean model itself "
        f"({', '.join(makers)}), {counts} held-out images; seed {', '.join(map(str, seeds))}"
        f"{', one line per seed' if len(seeds) > 1 else ''}. {UNITS}",
        [_curve_panel(norm, curves) for norm, curves in by.items()],
    )


def _curve_panel(norm: str, curves: list[NullCurve]) -> Panel:
    heading = f"f of the {SIZES[norm]}"
    alt = f"share of images fooled and f against the {SIZES[norm]}"
    with sheet(f"fig_null_curve_{norm}", alt, (WIDTH, 3.2), heading) as (figure, drawn):
        axis = figure.subplots()
        colour = OUTCOME_COLOURS["fooled"]
        for curve in curves:
            axis.plot([0, *curve.sizes], [0, *curve.probabilities], color=INK, alpha=0.8)
            axis.plot(curve.sizes[: len(curve.fooled)], curve.fooled, "o", color=colour, ms=3.5)
            axis.axvline(curve.largest, color="#7C828A", linestyle=":", linewidth=1)
        ends = sorted({curve.largest for curve in curves})
        text = " to ".join(size_text(end, norm) for end in dict.fromkeys((ends[0], ends[-1])))
        axis.annotate(
            f"1 from {text}",
            (ends[0], 0.04),
            (-4, 0),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="#555555",
        )
        axis.set_ylim(-0.03, 1.05)
        axis.grid(axis="y")
        _size_axis(axis, norm)
        axis.plot([], [], color=INK, label="f")
        axis.plot([], [], "o", color=colour, ms=3.5, label="share fooled")
        figure.legend(loc="outside lower center", ncols=2)
    return drawn[0]


def _size_axis(axis: Axes, norm: str) -> None:
    unit = "" if norm == "l0" else ", pixel units"
    axis.set_xlabel(SIZES[norm] + unit, fontsize=8, labelpad=1)
    axis.set_xlim(left=0)
    percent_axis(axis.yaxis, *([axis.xaxis] if norm == "l0" else []))


def probability_by_size(measures: Measures) -> Drawing | None:
    """Mean probabilities and answers against size, one panel per model, one row per norm."""
    means = by_size(measures.run)
    if means.empty:
        return None
    makers = means.drop_duplicates("norm").set_index("norm")["perturbation"]
    named = "; ".join(f"{NORMS[n]}: {attack_name(makers[n])}" for n in NORMS if n in makers)
    counts = " to ".join(f"{n:,}" for n in sorted(set(means["num_images"])))
    seeds = sorted(set(means["seed"]))
    several = f"{len(seeds)} seeds, white lines" if len(seeds) > 1 else f"seed {seeds[0]}"
    legend = [*OUTCOME_LEGEND]
    if means["f"].notna().any():
        legend.append(("f (dashed), in the panels of models trained with it", INK))
    return Drawing(
        "Probabilities and answers by size",
        "Left: mean probability of null, of all wrong classes and of the true class. With NULL "
        "probabilities the upper edge of null should follow f up to the dotted line, the end of "
        "the trained range. The clean model and CCAT have no null class; CCAT spreads its "
        "probability over the classes instead. Right: share of images answered null, with a wrong "
        "class (fooled) and with the true class; CCAT answers by its threshold. Perturbations of "
        f"the model itself, against its cross-entropy ({named}): they do not try to avoid null, "
        f"unlike the white-box attacks. {counts} test images per size, {several}. {UNITS}",
        [_by_size_panel(str(model), of) for model, of in means.groupby("model", sort=False)],
        legend,
    )


def _by_size_panel(model: str, means: pd.DataFrame) -> Panel:
    norms = [norm for norm in NORMS if norm in set(means["norm"])]
    alt = f"{short(model)}: mean probabilities and shares of answers against size"
    size = (WIDE, 0.3 + 1.5 * len(norms))
    with sheet(f"fig_by_size_{model}", alt, size, short(model)) as (figure, drawn):
        axes = figure.subplots(len(norms), 2, squeeze=False, sharey=True)
        for row, norm in zip(axes, norms, strict=True):
            of = means[means["norm"] == norm]
            for axis, (label, layers) in zip(row, LAYERS.items(), strict=True):
                _stack(axis, of, [*layers])
                axis.set_ylabel(label, fontsize=8)
                axis.set_ylim(0, 1)
                axis.set_yticks([0, 0.5, 1])
                _size_axis(axis, norm)
            f = of.groupby("size")["f"].mean().dropna()
            row[0].plot(f.index, f, color=INK, linestyle=(0, (4, 2)), linewidth=1.4)
            for end in of["end"].dropna().unique():
                if end < of["size"].max():
                    row[0].axvline(end, color=INK, linestyle=":", linewidth=1)
    return drawn[0]


def _stack(axis: Axes, of: pd.DataFrame, layers: list[str]) -> None:
    mean = of.groupby("size")[layers].mean()
    colours = [OUTCOME_COLOURS[outcome] for outcome in STACKED]
    axis.stackplot(mean.index.to_numpy(), *mean.T.to_numpy(), colors=colours, linewidth=0)
    for _, one in of.groupby("seed") if of["seed"].nunique() > 1 else ():
        edges = one.sort_values("size").set_index("size")[layers].cumsum(axis=1)
        axis.plot(edges.index, edges.iloc[:, :-1], color="#FFFFFF", linewidth=0.6)
    axis.set_xlim(right=mean.index.max())


def transfer_figure(measures: Measures) -> Drawing | None:
    """Fooled by source and target, one heat map per attack and ε."""
    table = transfer_table(measures)
    if table.empty:
        return None
    table["attack"] = pd.Categorical(table["attack"], TRANSFERS[::-1])
    num = ends_text(table["num_images"], "{:,}")
    return Drawing(
        "Transfer between models",
        "Share of test images that fool the target (a wrong class, not null), %. Rows: the model "
        "that the attack was made on; columns: the target. Framed: both are the same model, so the "
        "attack is white-box, though weaker than the worst case. By queries: each target's own "
        "substitute. The attacks take null into account. Intervals and transfer rates are in "
        f"figures/table_transfers.csv. L∞, ε in pixel units, {num} images, {measures.seeds_text()}"
        f"{', mean over seeds' if len(measures.seeds) > 1 else ''}.",
        [
            _heat_map(of, str(attack), float(str(eps)), measures.models)
            for (attack, eps), of in table.groupby(["attack", "eps_pixels"], observed=True)
        ],
        is_large=True,
    )


def _heat_map(of: pd.DataFrame, attack: str, eps: float, targets: list[str]) -> Panel:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    rates = of.pivot(index="source", columns="target", values="fooled_rate")
    order = (*SUBSTITUTES, *VARIANTS, QUERIED)
    rates = rates.reindex(index=[name for name in order if name in rates.index], columns=targets)
    heading = f"{attack_name(attack)}, ε {eps_text(eps)}"
    size = (WIDTH, 1.15 + 0.25 * len(rates))
    alt = f"{heading}: share fooled by source and target"
    with sheet(f"fig_transfer_{attack}_{eps:g}", alt, size, heading) as (figure, drawn):
        axis = figure.subplots()
        colours = LinearSegmentedColormap.from_list("fooled", HEAT)
        axis.pcolormesh(rates, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=1)
        for row, (source, of_source) in enumerate(rates.iterrows()):
            for column, share in enumerate(of_source):
                if np.isnan(share):
                    continue
                text = f"{100 * share:.{int(0 < share < 0.0995)}f}"
                style: dict[str, Any] = {
                    "fontsize": 7.5,
                    "color": "#FFFFFF" if share > 0.5 else INK,
                }
                axis.text(column + 0.5, row + 0.52, text, ha="center", va="center", **style)
                if source == targets[column]:
                    corner = (column + 0.03, row + 0.04)
                    axis.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, ec=INK, lw=1.2))
        turned: dict[str, Any] = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"}
        axis.set_xticks(np.arange(len(targets)) + 0.5, [*map(short, targets)], **turned)
        axis.set_yticks(np.arange(len(rates)) + 0.5, [*map(short, rates.index)])
        axis.invert_yaxis()
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return drawn[0]


def training_histories(measures: Measures) -> Drawing | None:
    """Losses against epochs, under short names."""
    run = with_names(measures.run)
    return training(run.histories, [*map(short, run.info.models)])


FIGURES: dict[str, Figure] = {
    "null-curves": null_curves,
    "by-size": probability_by_size,
    "transfer-matrix": transfer_figure,
    "gallery": lambda measures: gallery(with_names(measures.run)),
    "training": training_histories,
}
