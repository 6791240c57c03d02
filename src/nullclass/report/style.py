"""One look for every figure: colours, sizes, and SVG that is the same every time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nullclass.report.blocks import Panel

if TYPE_CHECKING:  # matplotlib is loaded only to draw
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

OUTCOMES = ("correct", "null", "fooled")
OUTCOME_COLOURS = {"correct": "#0072B2", "null": "#B9BDC3", "fooled": "#D55E00"}
"""Blue and vermillion of Okabe and Ito (2008); refusing to answer is grey. They differ in
lightness too, so they survive a black-and-white print."""
OUTCOME_LINES = OUTCOME_COLOURS | {"null": "#7C828A"}
"""The same for lines and dots, which need a darker grey than areas."""

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
"""Okabe and Ito (2008) and a violet, one a model, in an order that gives kin the same hue."""
MARKERS = ("x", "o", "s", "^", "D", "v", "P", "*")

LESS, MORE = "#5E3C99", "#E66101"
"""Ends of the difference images' colours, through white: ColorBrewer's PuOr."""

WIDTH = 4.3
"""Inches of a panel: on a phone 360 px wide its 9-point text is still about 10 px high."""
WIDE = 7.2
"""Inches of a panel that has the page's width to itself; a phone shows a part and scrolls."""

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
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,
}


def line_style(models: list[str], model: str) -> dict[str, str]:
    """Colour and marker of a model, the same in every figure of a run."""
    place = models.index(model)
    return {
        "color": LINE_COLOURS[place % len(LINE_COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
    }


@contextmanager
def panel(
    salt: str, alt: str, height: float, num_axes: int = 1
) -> Iterator[tuple[list[Axes], list[Markup]]]:
    """Draw a panel of axes one under the other.

    Args:
        salt: Name of the panel; keeps its identifiers apart from those of others on the page.
        alt: What the panel shows, for somebody who cannot see it.
        height: Inches.
        num_axes: How many axes.

    Yields:
        The axes, and a list that holds the SVG once the block has ended.
    """
    from matplotlib.figure import Figure

    drawn: list[Markup] = []
    with _styled(salt):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = list(figure.subplots(num_axes, 1, squeeze=False)[:, 0])
        yield axes, drawn
        drawn.append(_svg(figure, alt))


@contextmanager
def sheet(file: str, alt: str, size: tuple[float, float]) -> Iterator[tuple[Figure, list[Panel]]]:
    """Draw a figure that is also a file of the run's ``figures`` folder, as SVG and PNG.

    Args:
        file: Its name without ending.
        alt: What it shows, for somebody who cannot see it.
        size: Width and height in inches.

    Yields:
        The empty figure, and a list that holds the panel once the block has ended.
    """
    from matplotlib.figure import Figure

    drawn: list[Panel] = []
    with _styled(file):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, drawn
        svg = _svg(figure, alt)
        figure.set_layout_engine("none")  # found once, the places serve the files too
        if size[0] >= WIDE:
            svg = Markup(str(svg).replace("<svg", '<svg class="wide"', 1))
        figure.set_facecolor("white")
        files = {}
        for kind in ("svg", "png"):
            buffer = BytesIO()
            nothing: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(buffer, format=kind, dpi=200, metadata=nothing)
            files[kind] = buffer.getvalue()
        drawn.append(Panel(svg, file=file, svg=files["svg"], png=files["png"]))


@contextmanager
def _styled(salt: str) -> Iterator[None]:
    from matplotlib import rc_context, rcParamsDefault

    # from matplotlib's defaults, not from the user's own settings: the same rows, the same bytes
    settings: dict[Any, Any] = {k: v for k, v in rcParamsDefault.items() if k not in _UNTOUCHED}
    settings |= {**_SETTINGS, "svg.hashsalt": salt}
    with rc_context(settings):
        yield


_UNTOUCHED = {"backend", "backend_fallback", "interactive", "toolbar", "timezone"}


def _svg(figure: Figure, alt: str) -> Markup:
    """Inline SVG that fills the width it is given and refers to nothing outside itself."""
    buffer = StringIO()
    nothing: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # figure_1, axes_1 …: twice on one page
    text = re.sub(r"\n\s*", "\n", text)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    return Markup(f'{head} role="img" aria-label="{escape(alt)}">{rest.strip()}')


def percent_axis(axis: Axis) -> None:
    """Tick a share's axis in percent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.5g}%"))
