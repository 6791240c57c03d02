"""The cube of all images of three pixels: the ramps' boxes, shares, faces and run lengths.

A decision space is ``(S, S, S)`` predictions on a grid of S points a side, from 0 to 1, axes in the
order of the pixels: 0 down, 1 up, -1 null. Imports no torch, so the ramps of
:mod:`nullclass.data.ramps` stand here again; a test holds the two together.
"""

from __future__ import annotations

import base64
import math

import numpy as np
import numpy.typing as npt

Space = npt.NDArray[np.int8]

DOWN, UP, NULL = 0, 1, -1
CLASS_NAMES = ("down", "up")
CENTRES = (
    (DOWN, (0.666, 0.333, 0.0)),
    (DOWN, (0.0, 0.666, 0.333)),
    (UP, (0.333, 0.666, 0.0)),
    (UP, (0.0, 0.333, 0.666)),
)
"""The four ramps without noise, with their classes."""

HALF_WIDTH = 0.05
"""How far noise can move a pixel: the ramps of a class fill a box around each centre."""

BOX_VOLUME = math.fsum(
    math.prod(min(1, pixel + HALF_WIDTH) - max(0, pixel - HALF_WIDTH) for pixel in centre)
    for _, centre in CENTRES
)
"""Share of the cube in all boxes together, clipped to [0,1]."""


def optimal(side: int) -> Space:
    """The true regions: each box has its class, everything else is null."""
    space = np.full((side, side, side), NULL, np.int8)
    points = np.linspace(0, 1, side)
    for label, centre in CENTRES:
        inside = [np.abs(points - pixel) <= HALF_WIDTH for pixel in centre]
        space[np.ix_(*inside)] = label
    return space


def shares(space: Space) -> dict[str, float]:
    """Shares of the grid's points.

    Returns:
        ``down``, ``up`` and ``null`` (they sum to 1); ``wrong``: a class claimed outside its
        boxes; and, of the points in boxes, ``right``: answered with the box's class.
    """
    true = optimal(space.shape[0])
    is_real, is_in_box = space != NULL, true != NULL
    return {
        "down": float(np.mean(space == DOWN)),
        "up": float(np.mean(space == UP)),
        "null": float(np.mean(space == NULL)),
        "wrong": float(np.mean(is_real & (space != true))),
        "right": float(np.mean((space == true)[is_in_box])) if is_in_box.any() else math.nan,
    }


def exposed_faces(shown: npt.NDArray[np.bool_]) -> list[tuple[int, int, npt.NDArray[np.intp]]]:
    """The faces of shown cells that no other shown cell hides.

    Args:
        shown: ``(S, S, S)``.

    Returns:
        For each axis and each direction (-1, +1) along it: the cells ``(N, 3)`` that have a face
        there.
    """
    padded = np.pad(shown, 1)
    inner = (slice(1, -1),) * 3
    found = []
    for axis in range(3):
        for direction in (-1, 1):
            neighbour = np.roll(padded, -direction, axis)[inner]
            found.append((axis, direction, np.argwhere(shown & ~neighbour)))
    return found


def face_corners(
    cells: npt.NDArray[np.intp], axis: int, direction: int, side: int
) -> npt.NDArray[np.float64]:
    """Corners ``(N, 4, 3)`` of the faces of cells, in order round each face.

    A cell reaches half a step to either side of its grid point, and not out of the cube.
    """
    first, second = (other for other in range(3) if other != axis)
    offsets = np.full((4, 3), 0.5 * direction)
    offsets[:, first] = (-0.5, 0.5, 0.5, -0.5)
    offsets[:, second] = (-0.5, -0.5, 0.5, 0.5)
    corners = (cells[:, None, :] + offsets) / (side - 1)
    return np.asarray(corners.clip(0, 1))


def run_lengths(space: Space) -> str:
    """A decision space in few characters, for the script of the page.

    Cells in C order are cut into runs of one answer; a run is the number ``4 length + answer``,
    null being answer 2, in base 128, lowest digit first, with 128 added to every byte but the last.
    All of it in base 64.
    """
    cells = np.where(space == NULL, 2, space).ravel().astype(np.int64)
    ends = np.append(np.flatnonzero(np.diff(cells)) + 1, cells.size)
    lengths = np.diff(ends, prepend=0)
    told = bytearray()
    for number in (4 * lengths + cells[ends - 1]).tolist():
        rest = number
        while rest > 127:
            told.append(128 + rest % 128)
            rest //= 128
        told.append(rest)
    return base64.b64encode(bytes(told)).decode()
