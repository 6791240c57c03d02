"""The null curves: how often the clean model was fooled at each size, and f made of it."""

from __future__ import annotations

from nullclass.report.blocks import Drawing, Panel
from nullclass.report.measures import attack_name
from nullclass.report.style import OUTCOME_COLOURS, WIDTH, percent_axis, sheet
from nullclass.results.null_curve import NullCurve
from nullclass.results.store import Run
from nullclass.studies.null_probabilities.defences import NORM_WORDS
from nullclass.studies.null_probabilities.transfer_tables import size_text


def null_curves(run: Run) -> Drawing | None:
    """A panel a norm; every seed's curve in it."""
    by = {
        norm: [c for c in run.curves if c.curve.norm == norm]
        for norm in NORM_WORDS
        if any(c.curve.norm == norm for c in run.curves)
    }
    if not by:
        return None
    panels = [_panel(norm, [c.curve for c in curves]) for norm, curves in by.items()]
    seeds = sorted({c.seed for c in run.curves})
    nums = " to ".join(f"{n:,}" for n in sorted({c.curve.num_images for c in run.curves}))
    makers = ", ".join(
        f"{NORM_WORDS[norm].short}: {attack_name(curves[0].curve.perturbation)}"
        for norm, curves in by.items()
    )
    many = len(seeds) > 1
    return Drawing(
        "The null curves f",
        "Dots: share of held-out images, all of them answered rightly when clean, on which the "
        "clean model is fooled by a perturbation of that size. Line: f, these shares made monotone "
        "by isotonic regression, over the share that counts as always, cut at 1. Dotted: the "
        "smallest size where f is 1, the end of the range that models are trained on. Perturbed on "
        f"the clean model itself ({makers}), {nums} held-out images, "
        f"seed{'s' if many else ''} {', '.join(map(str, seeds))}"
        f"{', one line each' if many else ''}. L∞ and L2 in pixel units; L0 is the share of pixels "
        "changed.",
        panels,
    )


def _panel(norm: str, curves: list[NullCurve]) -> Panel:
    told = NORM_WORDS[norm]
    alt = f"share of images fooled and f against the {told.what}"
    with sheet(f"fig_null_curve_{norm}", alt, (WIDTH, 3.2)) as (figure, drawn):
        axis = figure.subplots()
        for place, curve in enumerate(curves):
            labels = ["share fooled", "f"] if place == 0 else ["_", "_"]
            axis.plot(
                [0, *curve.sizes],
                [0, *curve.probabilities],
                color="#1D1F22",
                alpha=1 if len(curves) == 1 else 0.7,
                label=labels[1],
            )
            if curve.fooled:
                axis.plot(
                    curve.sizes,
                    curve.fooled,
                    "o",
                    color=OUTCOME_COLOURS["fooled"],
                    markersize=3.5,
                    label=labels[0],
                )
            axis.axvline(curve.largest, color="#7C828A", linestyle=":", linewidth=1)
        ends = sorted({curve.largest for curve in curves})
        axis.annotate(
            f"{told.end} {' to '.join(size_text(e, norm) for e in sorted({ends[0], ends[-1]}))}",
            (min(curve.largest for curve in curves), 0.04),
            (-4, 0),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="#555555",
        )
        axis.set_ylim(-0.03, 1.05)
        axis.set_xlim(left=0)
        axis.set_xlabel(told.axis)
        percent_axis(axis.yaxis)
        if norm == "l0":
            percent_axis(axis.xaxis)
        axis.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=2)
    (panel,) = drawn
    heading = f"f of the {told.what}"
    return Panel(panel.html, heading, panel.file, panel.svg, panel.png)
