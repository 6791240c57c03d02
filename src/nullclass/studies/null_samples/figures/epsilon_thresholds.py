"""How far FGSM must go before the base model errs: histogram and distribution function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nullclass.report.blocks import Drawing
from nullclass.report.measures import Measures
from nullclass.report.style import LINE_COLOURS, WIDE, percent_axis, sheet
from nullclass.results.store import Run
from nullclass.studies.null_samples.config import BASE

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

FILE = "fig_epsilon_thresholds_hist_cdf"
NUM_BINS = 20


def epsilon_thresholds(run: Run) -> Drawing | None:
    """Median line over sets, band from the lowest to the highest set."""
    measures = Measures(run)
    sets = [
        trial.thresholds["threshold"].to_numpy(dtype=float)
        for trial in run.trials
        if trial.model == BASE and trial.selection == measures.selection and len(trial.thresholds)
    ]
    if not sets:
        return None
    # to the next tenth, so that a bin has a width that can be read off
    reach = np.ceil(max(float(of.max()) for of in sets) * 10 - 1e-6) / 10
    edges = np.linspace(0, reach, NUM_BINS + 1)
    shares = np.array([np.histogram(of, edges)[0] / len(of) for of in sets])
    grid = np.linspace(0, reach, 401)
    below = np.array([np.searchsorted(np.sort(of), grid, side="right") / len(of) for of in sets])
    alt = "thresholds of the base models in eps: share of images in 20 bins, and share below eps"
    with sheet(FILE, alt, (WIDE, 2.9)) as (figure, drawn):
        left, right = figure.subplots(1, 2)
        # a bin's share from its left edge to its right one
        _band(left, edges, np.concatenate([shares, shares[:, -1:]], axis=1), step="post")
        _band(right, grid, below, step=None)
        left.set_title("Share of images, 20 bins", loc="left")
        right.set_title("Share of images with threshold at most ε", loc="left")
        for axis in (left, right):
            axis.set_xlim(0, reach)
            axis.set_ylim(bottom=0)
            axis.set_xlabel("ε, pixel units")
            axis.grid(axis="y")
            percent_axis(axis.yaxis)
    middle = [float(np.median(of)) for of in sets]
    several = len(sets) > 1
    return Drawing(
        "Thresholds of the base models",
        f"The smallest ε, in pixel units (L∞), at which one FGSM step made on {BASE} makes {BASE} "
        f"itself err; {_counts(sets)} images a set, {measures.seeds_text('set')}, models selected "
        f"on {measures.selection} images. Images that {BASE} gets wrong anyway, or still right at "
        "ε 1, are not among them. "
        + (
            "Line: median over sets; band: lowest to highest set. Median threshold of the sets: "
            f"{min(middle):.3f} to {max(middle):.3f}."
            if several
            else f"Median threshold {middle[0]:.3f}."
        ),
        drawn,
    )


def _band(
    axis: Axes,
    eps: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    *,
    step: str | None,
) -> None:
    colour = LINE_COLOURS[1]
    style = "default" if step is None else f"steps-{step}"
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axis.fill_between(
            eps,
            low,
            high,
            step=step,  # type: ignore[arg-type]
            color=colour,
            alpha=0.22,
            linewidth=0,
        )
    axis.plot(eps, np.median(values, axis=0), color=colour, drawstyle=style)


def _counts(sets: list[npt.NDArray[np.float64]]) -> str:
    counts = sorted({len(of) for of in sets})
    return " to ".join(f"{count:,}" for count in sorted({counts[0], counts[-1]}))
