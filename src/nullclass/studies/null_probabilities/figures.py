"""Figures of the study ``null-probabilities``."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pandas as pd

from nullclass.metrics.rates import UNION
from nullclass.report.blocks import Drawing, Panel
from nullclass.report.figures.gallery import gallery
from nullclass.report.figures.training import training
from nullclass.report.formatting import attack_name, eps_text
from nullclass.report.measures import Measures
from nullclass.report.sections import Figure
from nullclass.report.style import (
    FAINT,
    INK,
    OUTCOME_COLOURS,
    OUTCOME_LEGEND,
    WIDE,
    WIDTH,
    percent_axis,
    sheet,
)
from nullclass.results.null_curve import NullCurve
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.config import QUERIED, SUBSTITUTES
from nullclass.studies.null_probabilities.measured import SHARES, Transfers, by_size, curve_of
from nullclass.studies.null_probabilities.names import NORMS, own_norm, short, size_text, with_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LAYERS = {
    "mean probability": dict(zip(SHARES, ("null", "fooled", "correct"), strict=True)),
    "share of images": {outcome: outcome for outcome in ("null", "fooled", "correct")},
}
"""The two columns of the figure by size: column of the data and its colour, from the bottom."""
UNITS = "L∞ and L2 in pixel units; L0 is the share of pixels changed."
HEAT = ("#FFFFFF", "#F6C9A8", "#D55E00", "#7A3300")


def null_curves(run: Run) -> Drawing | None:
    """Null curves and the rates they were fitted to, one panel per norm."""
    by = {n: [c.curve for c in run.curves if c.curve.norm == n] for n in NORMS}
    by = {norm: curves for norm, curves in by.items() if curves}
    if not by:
        return None
    seeds = sorted({c.seed for c in run.curves})
    counts = " to ".join(f"{n:,}" for n in sorted({c.curve.num_images for c in run.curves}))
    makers = (f"{NORMS[n].short}: {attack_name(of[0].perturbation)}" for n, of in by.items())
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
    name = NORMS[norm]
    alt = f"share of images fooled and f against the {name.what}"
    with sheet(f"fig_null_curve_{norm}", alt, (WIDTH, 3.2), f"f of the {name.what}") as (
        figure,
        drawn,
    ):
        axis = figure.subplots()
        for index, curve in enumerate(curves):
            fooled, f = ("_", "_") if index else ("share fooled", "f")
            axis.plot([0, *curve.sizes], [0, *curve.probabilities], color=INK, alpha=0.8, label=f)
            if curve.fooled:
                colour = OUTCOME_COLOURS["fooled"]
                axis.plot(curve.sizes, curve.fooled, "o", color=colour, ms=3.5, label=fooled)
            axis.axvline(curve.largest, color="#7C828A", linestyle=":", linewidth=1)
        ends = [curve.largest for curve in curves]
        text = " to ".join(size_text(end, norm) for end in sorted({min(ends), max(ends)}))
        axis.annotate(
            f"{name.end} {text}",
            (min(ends), 0.04),
            (-4, 0),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="#555555",
        )
        axis.set_ylim(-0.03, 1.05)
        axis.set_xlim(left=0)
        axis.grid(axis="y")
        _size_axis(axis, norm)
        figure.legend(loc="outside lower center", ncols=2)
    return drawn[0]


def _size_axis(axis: Axes, norm: str) -> None:
    axis.set_xlabel(NORMS[norm].axis, fontsize=8, labelpad=1)
    percent_axis(axis.yaxis, *([axis.xaxis] if norm == "l0" else []))


def probability_by_size(run: Run) -> Drawing | None:
    """Mean probabilities and answers against size, one panel per model, one row per norm."""
    means = by_size(run)
    if means.empty:
        return None
    norms = [norm for norm in NORMS if norm in set(means["norm"])]
    makers = means.drop_duplicates("norm").set_index("norm")["perturbation"]
    named = "; ".join(f"{NORMS[norm].short}: {attack_name(makers[norm])}" for norm in norms)
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
        [_by_size_panel(run, means, model, norms) for model in means["model"].unique()],
        legend,
    )


def _by_size_panel(run: Run, means: pd.DataFrame, model: str, norms: list[str]) -> Panel:
    alt = f"{short(model)}: mean probabilities and shares of answers against size"
    size = (WIDE, 0.3 + 1.5 * len(norms))
    with sheet(f"fig_by_size_{model}", alt, size, short(model)) as (figure, drawn):
        axes = figure.subplots(len(norms), 2, squeeze=False, sharey=True)
        for row, norm in zip(axes, norms, strict=True):
            of = means[(means["model"] == model) & (means["norm"] == norm)]
            for axis, (label, layers) in zip(row, LAYERS.items(), strict=True):
                _stack(axis, of, layers)
                axis.set_ylabel(label, fontsize=8)
                axis.set_ylim(0, 1)
                axis.set_yticks([0, 0.5, 1])
                _size_axis(axis, norm)
            if own_norm(model) == norm:
                f = of.groupby("size")["f"].mean().dropna()
                row[0].plot(f.index, f, color=INK, linestyle=(0, (4, 2)), linewidth=1.4)
                for seed in of["seed"].unique():
                    curve = curve_of(run, norm, int(seed))
                    if curve is not None and curve.largest < of["size"].max():
                        row[0].axvline(curve.largest, color=INK, linestyle=":", linewidth=1)
    return drawn[0]


def _stack(axis: Axes, of: pd.DataFrame, layers: dict[str, str]) -> None:
    mean = of.groupby("size")[list(layers)].mean()
    colours = [OUTCOME_COLOURS[outcome] for outcome in layers.values()]
    values = [mean[column] for column in layers]
    axis.stackplot(mean.index.to_numpy(), *values, colors=colours, linewidth=0)
    for _, one in of.groupby("seed") if of["seed"].nunique() > 1 else ():
        edges = one.sort_values("size").set_index("size")[list(layers)].cumsum(axis=1)
        axis.plot(edges.index, edges.iloc[:, :-1], color="#FFFFFF", linewidth=0.6)
    axis.set_xlim(0, mean.index.max())


def worst_case(run: Run) -> Drawing | None:
    """Worst case per image, one panel per ε, one bar per model."""
    measures = Measures(run)
    budgets = measures.union_budgets()
    if not budgets:
        return None
    strongest = measures.null_aware()
    attacks = f"the {attack_name(strongest)} and all other attacks" if strongest else "all attacks"
    several = len(measures.seeds) > 1
    legend = {
        "correct": "correct under all attacks",
        "null": "null under some attack, never fooled",
        "fooled": "fooled by some attack (AER, the number)",
    }
    return Drawing(
        "Worst case of all attacks",
        f"Worst answer per image over {attacks} at that ε or below and the clean image. Error "
        f"bars: {'lowest to highest seed' if several else '95 % Wilson interval'} of AER. "
        f"{measures.norm(UNION)}, ε in pixel units, {measures.num_images(UNION)} test images, "
        f"{measures.seeds_text()}.",
        [_worst_case_panel(measures, eps) for eps in budgets],
        [(text, OUTCOME_COLOURS[outcome]) for outcome, text in legend.items()],
    )


def _worst_case_panel(measures: Measures, eps: float) -> Panel:
    found = measures.find_all(measures.models, UNION, "aer", eps)
    heading = f"ε {eps_text(eps)}"
    alt = f"shares correct under all attacks, null under some and fooled by some at {heading}"
    size = (WIDTH, 0.6 + 0.33 * len(found))
    with sheet(f"fig_white_box_{eps:g}", alt, size, heading) as (figure, drawn):
        axis = figure.subplots()
        for row, aer in enumerate(found):
            strict = measures.find(aer.model, UNION, "strict", eps)
            right = 0.0 if strict is None else strict.mean
            left = 0.0
            shares = {"correct": right, "null": max(0.0, 1 - aer.mean - right), "fooled": aer.mean}
            for outcome, share in shares.items():
                colour = OUTCOME_COLOURS[outcome]
                axis.barh(row, share, left=left, height=0.72, color=colour, linewidth=0)
                left += share
            low, high = aer.interval
            error = [[high - aer.mean], [aer.mean - low]]
            axis.errorbar(1 - aer.mean, row, xerr=error, color=INK, elinewidth=0.9, capsize=2)
            axis.text(1.02, row, f"{100 * aer.mean:.1f}", va="center", fontsize=7.5)
        axis.set_yticks(range(len(found)), [short(aer.model) for aer in found])
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(len(found) - 0.4, -0.6)
        axis.set_xlim(0, 1.12)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axis.spines["left"].set_visible(False)
        percent_axis(axis.xaxis)
    return drawn[0]


def transfer_matrix(run: Run) -> Drawing | None:
    """Fooled by source and target, one heat map per attack and ε."""
    measures = Measures(run)
    transfers = Transfers(run, measures)
    panels = [
        _heat_map(transfers, a, eps) for a in transfers.attacks[::-1] for eps in transfers.budgets
    ]
    if not panels:
        return None
    return Drawing(
        "Who fools whom",
        "Share of test images that fool the target (a wrong class, not null), %. Rows: the model "
        "that the attack was made on; columns: the target. Framed: both are the same model, so the "
        "attack is white-box, though weaker than the worst case. By queries: each target's own "
        f"substitute. The attacks take null into account. L∞, ε in pixel units, "
        f"{transfers.num_images} images, {measures.seeds_text()}"
        f"{', mean over seeds' if len(measures.seeds) > 1 else ''}.",
        panels,
        is_large=True,
    )


def _heat_map(transfers: Transfers, attack: str, eps: float) -> Panel:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    sources, targets = transfers.sources, transfers.targets
    colours = LinearSegmentedColormap.from_list("fooled", HEAT)
    heading = f"{attack_name(attack)}, ε {eps_text(eps)}"
    size = (WIDTH, 1.15 + 0.25 * len(sources))
    alt = f"{heading}: share fooled by source and target"
    with sheet(f"fig_transfer_{attack}_{eps:g}", alt, size, heading) as (figure, drawn):
        axis = figure.subplots()
        for row, source in enumerate(sources):
            for column, target in enumerate(targets):
                measure = transfers.find(attack, source, target, eps)
                if measure is None:
                    continue
                value = 100 * measure.mean
                axis.add_patch(Rectangle((column, row), 1, 1, color=colours(measure.mean), lw=0))
                text = "0" if value == 0 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
                ink = "#FFFFFF" if value > 50 else INK
                place = (column + 0.5, row + 0.52)
                axis.text(*place, text, ha="center", va="center", fontsize=7.5, color=ink)
                if source == target:
                    corner = (column + 0.03, row + 0.04)
                    axis.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, edgecolor=INK, lw=1.2))
        for row, pair in enumerate(itertools.pairwise(sources), start=1):
            if len({(name in SUBSTITUTES, name == QUERIED) for name in pair}) > 1:
                axis.axhline(row, color=FAINT, linewidth=0.8)
        axis.set_xlim(0, len(targets))
        axis.set_ylim(len(sources), 0)
        axis.set_xticks(
            [column + 0.5 for column in range(len(targets))],
            [*map(short, targets)],
            rotation=40,
            ha="left",
            rotation_mode="anchor",
        )
        axis.tick_params(length=0)
        axis.xaxis.tick_top()
        axis.set_yticks([row + 0.5 for row in range(len(sources))], [*map(short, sources)])
        axis.spines[:].set_visible(False)
    return drawn[0]


FIGURES: dict[str, Figure] = {
    "null-curves": null_curves,
    "by-size": probability_by_size,
    "worst-case": worst_case,
    "transfer-matrix": transfer_matrix,
    "gallery": lambda run: gallery(with_names(run)),
    "training": lambda run: training(with_names(run)),
}
