"""Decision spaces in the cube of all images of three pixels: still pictures and a turnable one.

Only the exposed faces of the two classes are drawn; null is empty.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from nullclass.report.blocks import Drawing, Panel, Scene
from nullclass.report.style import WIDTH, sheet
from nullclass.results.store import Run
from nullclass.studies.ramps.config import GRID
from nullclass.studies.ramps.cube import (
    CLASS_NAMES,
    DOWN,
    NULL,
    UP,
    Space,
    exposed_faces,
    face_corners,
    optimal,
    run_lengths,
    shares,
)

Axes3D = Any  # mpl_toolkits has no types
Floats = npt.NDArray[np.float64]

CLASS_COLOURS = ("#E69F00", "#009E73")
"""Down and up: orange and bluish green of Okabe and Ito (2008)."""
NULL_COLOUR = "#B9BDC3"
OPTIMAL = "optimal"
FILES = {"base": "fig_decision_space_baseline"}
"""File names of the source that do not follow from the model's name."""
LIGHT = (0.84, 0.70, 1.0)
"""Brightness of faces towards pixel 1, 2 and 3."""
ELEVATION, AZIMUTH = 24.0, 38.0
"""View direction in degrees."""
VIEWS = (
    ((0.05, 0.0, 0.63, 1.0), (DOWN, UP)),
    ((0.7, 0.5, 0.29, 0.42), (DOWN,)),
    ((0.7, 0.01, 0.29, 0.42), (UP,)),
)
"""Left, bottom, width and height of the views of a sheet, and the classes of each."""


def spaces(run: Run) -> dict[str, Space]:
    """The optimal decision space, then that of each model's first seed."""
    found: dict[str, Space] = {}
    for trial in run.trials:  # ordered by model, then seed
        if trial.decisions is not None:
            found.setdefault(trial.model, trial.decisions)
    side = max((space.shape[0] for space in found.values()), default=GRID)
    return {OPTIMAL: optimal(side), **found}


def decision_spaces(run: Run) -> Drawing:
    """One sheet per model: both classes, and each alone."""
    found = spaces(run)
    side = found[OPTIMAL].shape[0]
    seed = min((t.seed for t in run.trials if t.decisions is not None), default=None)
    of_seed = "" if seed is None else f" Models of seed {seed}."
    return Drawing(
        "Decision spaces",
        f"Every image of three pixels is a point of the cube; predictions on a grid of {side}³ "
        "points. Colour: down or up; empty: null. The large picture shows both classes and their "
        "shadows on the floor, the small ones each class alone. Optimal: the class in the boxes of "
        f"its noisy ramps, null elsewhere.{of_seed}",
        [_sheet(model, space) for model, space in found.items()],
        list(zip(CLASS_NAMES, CLASS_COLOURS, strict=True)),
        is_large=True,
    )


def scene(run: Run) -> Scene:
    """The same spaces, to turn and to cut."""
    found = spaces(run)
    return Scene(
        "Turn and cut",
        "Drag the cube or press the arrow keys to turn it; the slider cuts it along one pixel.",
        "A cube of all images of three pixels, coloured where the chosen model answers down or up",
        [(model, run_lengths(space)) for model, space in found.items()],
        [(name, colour, True) for name, colour in zip(CLASS_NAMES, CLASS_COLOURS, strict=True)]
        + [("null", NULL_COLOUR, False)],
        ["pixel 1", "pixel 2", "pixel 3"],
        found[OPTIMAL].shape[0],
    )


def _sheet(model: str, space: Space) -> Panel:
    share = {name: f"{100 * value:.1f} %" for name, value in shares(space).items()}
    alt = (
        f"Decision space of {model}: {share['down']} of the cube down, {share['up']} up, "
        f"{share['null']} null"
    )
    plain = re.sub(r"[^\w.-]", "_", model)
    file = FILES.get(model, f"fig_decision_space_{plain}")
    with sheet(file, alt, (WIDTH, 2.9), model) as (figure, drawn):
        figure.set_layout_engine("none")
        figure.set_dpi(200)  # of the rasterised faces in the SVG
        for place, labels in VIEWS:
            axes: Axes3D = figure.add_axes(place, projection="3d")
            is_large = len(labels) > 1
            _frame(axes, is_large)
            if is_large:
                _draw(axes, *_shadows(space), zorder=1)
            else:
                axes.set_title(f"{CLASS_NAMES[labels[0]]} alone", y=1.07, fontsize=8.5)
            _draw(axes, *_faces(space, labels), zorder=2)
    return drawn[0]


def _frame(axes: Axes3D, is_large: bool) -> None:
    """Walls and near edges of the cube, and tick labels if there is room."""
    axes.set_proj_type("ortho")
    axes.view_init(ELEVATION, AZIMUTH)
    axes.computed_zorder = False
    axes.set(xlim=(0, 1), ylim=(0, 1), zlim=(0, 1))
    axes.set_box_aspect((1, 1, 1), zoom=1.0 if is_large else 1.15)
    for edge in np.eye(3):
        axes.plot(*np.stack([np.ones(3), 1 - edge], axis=1), color="#CCCCCC", lw=0.6, zorder=1)
    for number, axis in enumerate((axes.xaxis, axes.yaxis, axes.zaxis), 1):
        axis.set_ticks([0, 0.5, 1], ["0", "0.5", "1"] if is_large else [""] * 3)
        axis.set_tick_params(pad=-2, labelsize=8)
        if is_large:
            axis.set_label_text(f"pixel {number}")
            axis.labelpad = -6


def _draw(axes: Axes3D, corners: Floats, colours: Floats, zorder: int) -> None:
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]

    if not len(corners):
        return
    faces = Poly3DCollection(
        list(corners),
        facecolors=colours,
        edgecolors=colours,
        linewidths=0.4,
        antialiaseds=False,  # no gaps between neighbouring faces
        rasterized=True,  # thousands of polygons would be megabytes of SVG
        zorder=zorder,
    )
    axes.add_collection3d(faces, autolim=False)


def _shadows(space: Space) -> tuple[Floats, Floats]:
    """Corners and a pale colour of the cells projected on the floor."""
    cells = np.argwhere((space != NULL).any(axis=2))
    corners = face_corners(np.insert(cells, 2, 0, axis=1), 2, -1, space.shape[0])
    return corners, np.full((len(cells), 3), 0.86)


def _faces(space: Space, labels: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Corners ``(N, 4, 3)`` and colours ``(N, 3)`` of the faces towards the viewer."""
    from matplotlib.colors import to_rgb

    rgb = np.array([to_rgb(colour) for colour in CLASS_COLOURS])
    corners, colours = [np.zeros((0, 4, 3))], [np.zeros((0, 3))]
    for axis, direction, cells in exposed_faces(np.isin(space, labels)):
        if direction > 0:  # the viewer is on the side of bright pixels
            corners.append(face_corners(cells, axis, direction, space.shape[0]))
            colours.append(rgb[space[tuple(cells.T)]] * LIGHT[axis])
    return np.concatenate(corners), np.concatenate(colours)
