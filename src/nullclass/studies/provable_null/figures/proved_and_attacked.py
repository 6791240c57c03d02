"""RAR against eps: proved, from below, and left by attacks, from above; the gap between shaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from nullclass.metrics.rates import PROOF, UNION
from nullclass.report.blocks import Drawing
from nullclass.report.measures import Measure, Measures, attack_name
from nullclass.report.style import WIDE, percent_axis, sheet
from nullclass.results.schema import CLEAN
from nullclass.results.store import Run
from nullclass.studies.provable_null.proof_tables import verifiers_text
from nullclass.studies.provable_null.proved import Point, bracket, proved_budgets, radii
from nullclass.studies.provable_null.recorded import Recorded, recorded
from nullclass.zoo import FOLDER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "fig_proved_and_attacked"
COLUMNS = 3
PROVED, ATTACKED, GAP = "#009E73", "#D55E00", "#E9E4D4"
"""Colours of the two curves, and of what lies between."""


def proved_and_attacked(run: Run, zoo: Path = FOLDER) -> Drawing | None:
    """A panel a model, all with the same axes; then models of the zoo, as it recorded them.

    Args:
        run: The run.
        zoo: Folder of the zoo.
    """
    measures = Measures(run)
    if not proved_budgets(measures):
        return None
    own = [model for model in measures.models if bracket(measures, model)]
    others = recorded(run, set(own), zoo)
    num_rows = -(-(len(own) + len(others)) // COLUMNS)
    alt = "robust accuracy with rejection by eps, proved and attacked, one panel a model"
    with sheet(FILE, alt, (WIDE, 0.7 + 1.95 * num_rows)) as (figure, drawn):
        grid = figure.subplots(num_rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
        axes = list(grid.flat)
        own_axes, other_axes = axes[: len(own)], axes[len(own) : len(own) + len(others)]
        for model, axis in zip(own, own_axes, strict=True):
            start = measures.find(model, CLEAN, "correct")
            _panel(axis, model, start, bracket(measures, model), radii(run).get(model))
        for other, axis in zip(others, other_axes, strict=True):
            _recorded_panel(axis, other)
        for axis in axes[len(own) + len(others) :]:
            axis.set_visible(False)
        for axis in axes[: len(own) + len(others)][-COLUMNS:]:
            axis.set_xlabel("ε, pixel units")
            axis.tick_params(labelbottom=True)
        handles = [_proved_key(), _attacked_key(), _gap_key()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    strongest = measures.null_aware()
    who = f"the {attack_name(strongest)} and every other attack" if strongest else "all attacks"
    several = len(measures.seeds) > 1
    names = ", ".join(other.name for other in others)
    return Drawing(
        "RAR, proved and attacked",
        "Robust accuracy with rejection: right when clean, and no image within ε answered wrongly. "
        f"Line: proved by {verifiers_text(run)}, {measures.num_images(PROOF)} test images; no "
        f"attack can go below it on them. Marks: what {who} left of {measures.num_images(UNION)} "
        "test images; a stronger attack may leave less. Shaded: what nobody knows. At ε 0 both are "
        f"the clean images that are answered rightly. {measures.norm(PROOF)}, ε in pixel units, "
        f"{measures.seeds_text()}; bars and the line's band reach "
        f"{'from the lowest to the highest seed' if several else 'over 95 % Wilson intervals'}. "
        "Dotted: twice the radius of a model that proves its answers. Null-DoS and clean null, "
        "which RAR does not tell, are in the tables."
        f"{f' From the zoo, as recorded there: {names}.' if names else ''}",
        drawn,
    )


def _panel(
    axis: Axes, name: str, start: Measure | None, points: list[Point], radius: float | None
) -> None:
    zero = [] if start is None else [(0.0, start)]
    proved = zero + [(point.eps, point.proved) for point in points if point.proved is not None]
    attacked = zero + [(p.eps, p.attacked) for p in points if p.attacked is not None]
    _gap(axis, [(e, m.mean) for e, m in proved], [(e, m.mean) for e, m in attacked])
    if proved:
        at = [eps for eps, _ in proved]
        lows, highs = zip(*(measure.interval for _, measure in proved), strict=True)
        axis.fill_between(at, lows, highs, color=PROVED, alpha=0.25, linewidth=0)
        axis.plot(at, [measure.mean for _, measure in proved], color=PROVED)
    shown = [(eps, measure) for eps, measure in attacked if eps > 0]
    if shown:
        means = [measure.mean for _, measure in shown]
        ends = [measure.interval for _, measure in shown]
        bars = [
            [m - low for m, (low, _) in zip(means, ends, strict=True)],
            [high - m for m, (_, high) in zip(means, ends, strict=True)],
        ]
        axis.errorbar(
            [eps for eps, _ in shown],
            means,
            yerr=bars,
            color=ATTACKED,
            marker="v",
            linestyle="none",
            elinewidth=0.9,
            capsize=2,
        )
    if radius is not None:
        axis.axvline(2 * radius, color="#777777", linewidth=0.9, linestyle=":")
    _look(axis, name)


def _recorded_panel(axis: Axes, other: Recorded) -> None:
    zero = [(0.0, other.clean)] if not math.isnan(other.clean) else []
    proved, attacked = zero + other.proved, zero + other.attacked
    _gap(axis, proved, attacked)
    if other.proved:
        axis.plot(*zip(*proved, strict=True), color=PROVED)
    if other.attacked:
        axis.plot(*zip(*other.attacked, strict=True), color=ATTACKED, marker="v", linestyle="none")
    _look(axis, f"{other.name} (zoo)")


def _gap(axis: Axes, low: list[tuple[float, float]], high: list[tuple[float, float]]) -> None:
    """Shade between two broken lines, as far as both go."""
    import numpy as np

    if len(low) < 2 or len(high) < 2:
        return
    end = min(low[-1][0], high[-1][0])
    at = np.array(sorted({eps for eps, _ in (*low, *high) if eps <= end + 1e-9}))
    lows, highs = (
        np.interp(at, [eps for eps, _ in line], [share for _, share in line])
        for line in (low, high)
    )
    # Over different images, the one may stand above the other: that is no gap.
    axis.fill_between(at, lows, np.maximum(lows, highs), color=GAP, linewidth=0)


def _look(axis: Axes, name: str) -> None:
    axis.set_title(name)
    axis.set_ylim(-0.03, 1.03)
    axis.set_xlim(left=0)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axis.grid(axis="y")
    percent_axis(axis.yaxis)


def _proved_key() -> object:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=PROVED, label="proved")


def _attacked_key() -> object:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=ATTACKED, marker="v", linestyle="none", label="left by attacks")


def _gap_key() -> object:
    from matplotlib.patches import Patch

    return Patch(color=GAP, label="not known")
