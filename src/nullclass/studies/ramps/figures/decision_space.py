"""What a model answers in the cube of all images of three pixels: stills, and one to turn.

Only the exposed faces of the two classes are drawn; null is what is left empty.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nullclass.report.blocks import Drawing, Panel, Scene
from nullclass.report.style import WIDTH, sheet
from nullclass.results.store import Run, Trial
from nullclass.studies.ramps.figures.ramp_cube import (
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

OPTIMAL, BASE = "optimal", "base"
FILES = {BASE: "fig_decision_space_baseline"}
"""The source's names, where they are not made from the model's."""

LIGHT = (0.84, 0.70, 1.0)
"""How bright a face is that looks along pixel 1, 2 or 3."""
ELEVATION, AZIMUTH = 24.0, 38.0
"""Where the pictures are seen from, in degrees."""
GRID = 49
"""Points a side of the optimal space, where no model has any."""


def spaces(run: Run) -> dict[str, Space]:
    """The optimal decision space, then that of each model's first seed."""
    found = {model: trial.decisions for model, trial in _first(run).items()}
    told = {model: space for model, space in found.items() if space is not None}
    side = max((space.shape[0] for space in told.values()), default=GRID)
    return {OPTIMAL: optimal(side), **told}


def _first(run: Run) -> dict[str, Trial]:
    found: dict[str, Trial] = {}
    for trial in sorted(run.trials, key=lambda trial: trial.seed):
        if trial.decisions is not None:
            found.setdefault(trial.model, trial)
    models = dict.fromkeys(trial.model for trial in run.trials)
    return {model: found[model] for model in models if model in found}


def decision_spaces(run: Run) -> Drawing:
    """A sheet a model: both classes, and each of them alone."""
    seeds = sorted({trial.seed for trial in _first(run).values()})
    found = spaces(run)
    side = found[OPTIMAL].shape[0]
    drawn = [_sheet(model, space) for model, space in found.items()]
    whose = f" The models are those of seed {' and '.join(map(str, seeds))}." if seeds else ""
    return Drawing(
        "Decision spaces",
        f"Every image of three pixels is a point of the cube; asked on a grid of {side}³ of them. "
        "Coloured is where the answer is down or up, empty is where it is null. The large picture "
        "has both classes, and on its floor their shadows; beside it each class alone. Optimal "
        f"are the true regions: the boxes that the ramps' noise fills, all else null.{whose}",
        drawn,
        list(zip(CLASS_NAMES, CLASS_COLOURS, strict=True)),
        is_large=True,
    )


def scene(run: Run) -> Scene:
    """The same spaces, to turn and to cut."""
    found = spaces(run)
    return Scene(
        "To turn and to cut",
        "Drag the cube, or press the arrow keys, to turn it; the slider cuts it along one pixel.",
        "A cube of all images of three pixels, coloured where the chosen model answers down or up",
        [(model, run_lengths(space)) for model, space in found.items()],
        [(name, colour, True) for name, colour in zip(CLASS_NAMES, CLASS_COLOURS, strict=True)]
        + [("null", NULL_COLOUR, False)],
        ["pixel 1", "pixel 2", "pixel 3"],
        found[OPTIMAL].shape[0],
    )


def _sheet(model: str, space: Space) -> Panel:
    told = shares(space)
    alt = (
        f"Decision space of {model}: {100 * told['down']:.1f} % of the cube down, "
        f"{100 * told['up']:.1f} % up, {100 * told['null']:.1f} % null"
    )
    plain = re.sub(r"[^\w.-]", "_", model)
    file = FILES.get(model, f"fig_decision_space_{plain}")
    with sheet(file, alt, (WIDTH, 2.9)) as (figure, drawn):
        figure.set_layout_engine("none")
        figure.set_dpi(200)  # of what is rasterised in the SVG
        for place, labels in _PLACES:
            axes: Axes3D = figure.add_axes(place, projection="3d")
            _frame(axes, is_large=len(labels) > 1)
            if len(labels) > 1:
                _draw(axes, *_shadows(space), zorder=1)
            else:
                axes.set_title(f"{CLASS_NAMES[labels[0]]} alone", y=1.07, fontsize=8.5)
            _draw(axes, *_faces(space, labels), zorder=2)
    return replace(drawn[0], heading=model)


_PLACES = (
    ((0.05, 0.0, 0.63, 1.0), (DOWN, UP)),
    ((0.7, 0.5, 0.29, 0.42), (DOWN,)),
    ((0.7, 0.01, 0.29, 0.42), (UP,)),
)
"""Left, bottom, width and height of the views of a sheet, and the classes each shows."""


def _frame(axes: Axes3D, is_large: bool) -> None:
    """The cube: its walls, its near edges, and the names of its axes if there is room."""
    axes.set_proj_type("ortho")
    axes.view_init(ELEVATION, AZIMUTH)
    axes.computed_zorder = False
    axes.set(xlim=(0, 1), ylim=(0, 1), zlim=(0, 1))
    axes.set_box_aspect((1, 1, 1), zoom=1.0 if is_large else 1.15)
    for edge in np.eye(3):
        axes.plot(*np.stack([np.ones(3), 1 - edge], axis=1), color="#CCCCCC", lw=0.6, zorder=1)
    ticks = [0, 0.5, 1]
    for number, axis in enumerate((axes.xaxis, axes.yaxis, axes.zaxis), 1):
        axis.set_ticks(ticks, ["0", "0.5", "1"] if is_large else [""] * 3)
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
        antialiaseds=False,  # else the ground shines through between two faces
        rasterized=True,  # thousands of polygons would make a page of megabytes
        zorder=zorder,
    )
    axes.add_collection3d(faces, autolim=False)


def _shadows(space: Space) -> tuple[Floats, Floats]:
    """What stands above the floor, on the floor: corners and a pale colour."""
    cells = np.argwhere((space != NULL).any(axis=2))
    corners = face_corners(np.insert(cells, 2, 0, axis=1), 2, -1, space.shape[0])
    return corners, np.full((len(cells), 3), 0.86)


def _faces(space: Space, labels: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Corners ``(N, 4, 3)`` and colours ``(N, 3)`` of the faces that look at the viewer."""
    shown = np.isin(space, labels)
    corners, colours = [np.zeros((0, 4, 3))], [np.zeros((0, 3))]
    for axis, direction, cells in exposed_faces(shown):
        if direction > 0:  # the viewer stands where all pixels are bright
            answers = space[tuple(cells.T)]
            corners.append(face_corners(cells, axis, direction, space.shape[0]))
            colours.append(_RGB[answers] * LIGHT[axis])
    return np.concatenate(corners), np.concatenate(colours)


_RGB = np.array(
    [[int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)] for colour in CLASS_COLOURS]
)
