"""Figures of the study ``ramps``: decision spaces, examples of images and training curves.

Decision spaces show the exposed faces of the two classes; null is empty.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nullclass.report.blocks import Drawing, Panel, Scene
from nullclass.report.figures.training import ACCURACY, training
from nullclass.report.measures import Measures
from nullclass.report.sections import Figure
from nullclass.report.style import WIDTH, panel, sheet
from nullclass.results.run import Run
from nullclass.studies.ramps.config import GRID
from nullclass.studies.ramps.cube import (
    CENTRES,
    CLASS_NAMES,
    DOWN,
    HALF_WIDTH,
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
    seeds = [trial.seed for trial in run.trials if trial.decisions is not None]
    return Drawing(
        "Decision spaces",
        "Every image of three pixels is a point of the cube; predictions on a grid of "
        f"{len(found[OPTIMAL])}³ points. Colour: down or up; empty: null. The large picture shows "
        "both classes and their shadows on the floor, the small ones each class alone. Optimal: "
        "the class in the boxes of its noisy ramps, null elsewhere."
        f"{f' Models of seed {min(seeds)}.' if seeds else ''}",
        [decision_space(model, space) for model, space in found.items()],
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


def decision_space(model: str, space: Space) -> Panel:
    """Draw the decision space of a model: both classes, and each alone."""
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


NUM_SHOWN = 7
"""Images per kind."""
ROW = 1.75
"""Height of a row of images."""


def sample_kinds(rng: np.random.Generator, num: int = NUM_SHOWN) -> dict[str, Floats]:
    """Images ``(num, 3)`` in [0, 1] of each kind: four of ramps, two of null images."""

    def ramps(centres: Floats) -> Floats:
        noise = rng.uniform(-HALF_WIDTH, HALF_WIDTH, centres.shape)
        return np.asarray((centres + noise).clip(0, 1))

    kinds = {
        f"{CLASS_NAMES[label]}, {'right' if centre[2] else 'left'}": ramps(
            np.tile(centre, (num, 1))
        )
        for label, centre in CENTRES
    }
    kinds["null, uniform"] = rng.uniform(0, 1, (num, 3))
    chosen = np.array([centre for _, centre in CENTRES])[rng.integers(len(CENTRES), size=num)]
    kinds["null, shuffled"] = rng.permuted(ramps(chosen), axis=1)
    return kinds


def ramp_samples() -> Drawing:
    """One row per kind: bars as high as the pixel values, the pixels below."""
    kinds = sample_kinds(np.random.default_rng(2020))
    panels: list[Panel] = []
    alt = f"{NUM_SHOWN} images each of {'; '.join(kinds)}"
    with panel(panels, "fig_ramp_samples", alt, 3.4) as axes:
        for row, (kind, images) in enumerate(kinds.items()):
            bottom, values = -row * ROW, images.ravel()
            left = (4.0 * np.arange(len(images))[:, None] + np.arange(3)).ravel()
            greys = [(value,) * 3 for value in values.tolist()]
            axes.bar(left, 1.0, 0.9, bottom, color="#EEF0F2")
            axes.bar(left, values, 0.9, bottom, color="#56B4E9")
            axes.bar(
                left, 0.26, 1.0, bottom - 0.36, color=greys, edgecolor="#555555", linewidth=0.5
            )
            axes.text(-0.7, bottom + 0.35, kind, ha="right", va="center")
        axes.set_xlim(-0.6, 4 * NUM_SHOWN - 0.8)
        axes.set_ylim(-ROW * (len(kinds) - 1) - 0.45, 1.05)
        axes.set_axis_off()
    return Drawing(
        "Ramps and null images",
        "Images of three pixels: bars show the pixel values on a pale scale up to 1, with the "
        "pixels below. Drawn for this figure by the rules of the study with a fixed seed; they are "
        "not images of the run. A shuffled image is a ramp with its pixels in one of six orders; "
        "four of the six are ramps again.",
        panels,
        is_large=True,
    )


def ramp_training(measures: Measures) -> Drawing | None:
    """Training loss and accuracy against epochs."""
    columns = {"loss": "Training loss", ACCURACY: "Training accuracy"}
    run = measures.run
    drawing = training(run.histories, run.info.models, columns, "fig_ramp_training_histories")
    if drawing is None:
        return None
    n = num_training_images(run)
    caption = (
        f"{drawing.caption} {f'n = {n:,} images per epoch and seed. ' if n else ''}With dropout. "
        "The null models continue from the trained base."
    )
    return replace(drawing, caption=caption)


def num_training_images(run: Run) -> int:
    """Training images per epoch; 0 if not recorded."""
    return run.info.data.num_training_images or 0


FIGURES: dict[str, Figure] = {"training": ramp_training, "samples": lambda _: ramp_samples()}
