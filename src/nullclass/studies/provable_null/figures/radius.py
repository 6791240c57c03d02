"""What a larger radius costs: answered rightly, refused and answered wrongly, by the radius."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nullclass.report.blocks import Drawing
from nullclass.report.measures import Measures
from nullclass.report.style import OUTCOME_LINES, WIDTH, line_style, percent_axis, sheet
from nullclass.results.store import Run
from nullclass.studies.provable_null.proved import by_radius, radii

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

FILE = "fig_radius"
DASHES: dict[str, Any] = {"null": "solid", "fooled": (0, (3, 1.5))}


def radius(run: Run) -> Drawing | None:
    """Above what is answered rightly, below, on a logarithm, what is not."""
    table = by_radius(run)
    if table.empty:
        return None
    models, own = list(dict.fromkeys(table["model"])), radii(run)
    alt = "clean images answered rightly, refused and answered wrongly, by the radius of the proof"
    with sheet(FILE, alt, (WIDTH, 5.6)) as (figure, drawn):
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.15, 1])
        for model in models:
            curve = table[table["model"] == model]
            _curves(above, below, curve, model, models, own.get(model))
        _axes(above, below, float(table["correct"].min()))
        handles = [*above.get_legend_handles_labels()[0], *_keys()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    num = int(table["num_images"].min())
    return Drawing(
        "What a larger radius costs",
        "A model that answers only what it proves within r, asked with every r in turn about "
        f"{num:,} clean test images (no attack). Above: answered rightly, which is the certified "
        "accuracy at r, and so the robust accuracy with rejection proved at ε = 2r (upper scale). "
        "Below: what that leaves, refused (clean null) and answered wrongly (certified wrong, "
        "clean fooled), on a logarithmic scale on which 0 is not drawn. Large marks: the radius a "
        f"model is deployed with. L∞, pixel units, {Measures(run).seeds_text()}"
        f"{', means' if int(table['num_seeds'].max()) > 1 else ''}. It says nothing of null-DoS: "
        "see the tables.",
        drawn,
        is_large=True,
    )


def _curves(
    above: Axes,
    below: Axes,
    curve: pd.DataFrame,
    model: str,
    models: list[str],
    own: float | None,
) -> None:
    style = line_style(models, model)
    colour, marker = style["color"], style["marker"]
    above.plot(curve["radius"], curve["correct"], color=colour, label=model)
    for word, dashes in DASHES.items():
        shown = curve[curve[word] > 0]
        below.plot(shown["radius"], shown[word], color=colour, linestyle=dashes)
    if own is None:
        return
    at = curve[(curve["radius"] - own).abs() < 1e-6]
    for axis, word in ((above, "correct"), (below, "null"), (below, "fooled")):
        found = at[at[word] > 0]
        axis.plot(
            found["radius"],
            found[word],
            color=colour,
            marker=marker,
            markersize=9,
            markeredgewidth=1.8,
            linestyle="none",
        )


def _axes(above: Axes, below: Axes, lowest: float) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    above.set_ylim(max(0.0, lowest - 0.02), 1.0)
    above.set_ylabel("answered rightly")
    twice = above.secondary_xaxis("top", functions=(_doubled, _halved))
    twice.set_xlabel("ε = 2r, where that much RAR is proved")
    above.tick_params(labelbottom=False)
    percent_axis(above.yaxis)
    below.set_yscale("log")
    below.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    below.yaxis.set_minor_formatter(NullFormatter())
    below.set_ylabel("the rest")
    below.set_xlabel("radius r, pixel units")
    below.set_xlim(left=0)
    for axis in (above, below):
        axis.grid(axis="both")


def _doubled(radius: Any) -> Any:
    return 2 * radius


def _halved(eps: Any) -> Any:
    return eps / 2


def _keys() -> list[Line2D]:
    """What the dashes below mean; outside, as curves may be anywhere."""
    from matplotlib.lines import Line2D

    names = {"null": "refused", "fooled": "answered wrongly"}
    return [
        Line2D([], [], color=OUTCOME_LINES["null"], linestyle=DASHES[word], label=names[word])
        for word in DASHES
    ]
