"""Shared look of all figures, and the one helper that renders them.

matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.core.paths import file_name
from nullclass.report.blocks import Panel
from nullclass.report.measures import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

OUTCOME_COLOURS = {"correct": "#0072B2", "null": "#B9BDC3", "fooled": "#D55E00"}
"""Blue and vermillion of Okabe and Ito (2008), grey for null; they differ in lightness too."""
OUTCOME_LINES = OUTCOME_COLOURS | {"null": "#7C828A"}
"""The same for lines and dots, with a darker grey."""
OUTCOME_LEGEND = [(name, OUTCOME_COLOURS[name]) for name in OUTCOME_NAMES]

INK, FAINT = "#1D1F22", "#B9BDC3"
LINE_COLOURS = (
    "#222222",
    "#0072B2",
    "#56B4E9",
    "#D55E00",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#6A3D9A",
)
"""Okabe and Ito (2008) and a violet, one per model."""
MARKERS = ("x", "o", "s", "^", "D", "v", "P", "*")

WIDTH = 4.3
"""Inches of a panel: on a phone 360 px wide its 9-point text is about 10 px high."""
WIDE = 7.2
"""Inches of a panel as wide as the page."""

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "text.parse_math": False,
}
_UNTOUCHED = {"backend", "backend_fallback", "interactive", "toolbar", "timezone"}


@contextmanager
def sheet(
    name: str, alt: str, size: tuple[float, float], heading: str = "", *, is_file: bool = True
) -> Iterator[tuple[Figure, list[Panel]]]:
    """Draw one figure: inline SVG and, by default, an SVG and a PNG file.

    The same drawing gives the same bytes under any matplotlib settings of the user.

    Args:
        name: Name of the files without ending; keeps the SVG's identifiers unique on a page.
        alt: Text alternative.
        size: Width and height in inches.
        heading: Heading of the panel.
        is_file: Whether the figure is also written to the run's ``figures`` folder.

    Yields:
        The empty figure, and a list that holds the panel once the block has ended.
    """
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {k: v for k, v in rcParamsDefault.items() if k not in _UNTOUCHED}
    settings |= {**_SETTINGS, "svg.hashsalt": name}
    panels: list[Panel] = []
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, panels
        svg = _saved(figure, "svg")
        figure.set_layout_engine("none")  # the layout is already computed
        inline = _inline(svg.decode(), alt, "wide" if size[0] >= WIDE else "")
        if is_file:
            file = file_name(name)  # a model or an attack may have any name
            panels.append(Panel(inline, heading, file, svg, _saved(figure, "png")))
        else:
            panels.append(Panel(inline, heading))


@contextmanager
def panel(
    panels: list[Panel],
    name: str,
    alt: str,
    height: float,
    heading: str = "",
    *,
    width: float = WIDTH,
    legend: int = 0,
    is_file: bool = True,
) -> Iterator[Axes]:
    """Draw a figure of one pair of axes, and append its panel.

    Args:
        panels: List to append to.
        name: See :func:`sheet`.
        alt: Text alternative.
        height: In inches.
        heading: Heading of the panel.
        width: In inches.
        legend: Columns of the legend below the axes; 0 for none.
        is_file: Whether the figure is also written to the run's ``figures`` folder.
    """
    with sheet(name, alt, (width, height), heading, is_file=is_file) as (figure, drawn):
        yield figure.subplots()
        if legend:
            figure.legend(loc="outside lower center", ncols=legend)
    panels += drawn


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = BytesIO()
    no_date: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=200, metadata=no_date)
    return buffer.getvalue()


def _inline(svg: str, alt: str, css_class: str) -> Markup:
    """SVG for a page: as wide as its place, without references or repeated identifiers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # figure_1, axes_1 …: repeated on a page
    svg = re.sub(r"\n\s*", "\n", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    if css_class:
        head = head.replace("<svg", f'<svg class="{css_class}"', 1)
    return Markup(f'{head} role="img" aria-label="{escape(alt)}">{rest.strip()}')


def line_style(models: Sequence[str], model: str) -> dict[str, Any]:
    """Colour and marker of a model, the same in every figure of a run."""
    index = models.index(model)
    return {
        "color": LINE_COLOURS[index % len(LINE_COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def percent_axis(*axes: Axis) -> None:
    """Label the ticks of a share's axis in percent."""
    from matplotlib.ticker import FuncFormatter

    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.5g}%"))


def rate_axes(axis: Axes) -> None:
    """Dress axes that show rates against ε."""
    axis.set_ylim(-0.03, 1.03)
    axis.set_xlim(left=0)
    axis.set_xlabel("ε, pixel units")
    axis.grid(axis="y")
    percent_axis(axis.yaxis)


def curve(
    axis: Axes,
    measures: Sequence[Measure],
    *,
    band: bool | None = None,
    alpha: float = 0.18,
    **style: Any,
) -> None:
    """Draw rates against ε with their intervals (:attr:`Measure.interval`).

    Args:
        axis: Axes to draw on.
        measures: Of one model and metric, ε ascending.
        band: Whether intervals are a band instead of error bars; by default with several seeds.
        alpha: Opacity of the band.
        style: Of the line.
    """
    eps, means = [m.eps for m in measures], [m.mean for m in measures]
    lows, highs = zip(*(m.interval for m in measures), strict=True)
    if all(len(m.values) > 1 for m in measures) if band is None else band:
        axis.fill_between(eps, lows, highs, color=style["color"], alpha=alpha, linewidth=0)
        axis.plot(eps, means, **style)
        return
    below_and_above = [*zip(*(m.error for m in measures), strict=True)]
    axis.errorbar(eps, means, yerr=below_and_above, elinewidth=0.9, capsize=2, **style)
