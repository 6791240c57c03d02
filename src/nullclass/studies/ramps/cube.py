"""The cube of all images of three pixels: regions of the ramps, shares, faces and run lengths.

A decision space is an ``(S, S, S)`` array of predictions on a grid of S points per side from 0 to
1, axes in the order of the pixels: 0 down, 1 up, -1 null. Needs no torch; a test compares the boxes
with :mod:`nullclass.data.ramps`.
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
"""Class and pixels of the four ramps without noise."""
HALF_WIDTH = 0.05
"""Largest noise per pixel: the ramps of a class fill a box around each centre."""
BOX_VOLUME = math.fsum(
    math.prod(min(1, pixel + HALF_WIDTH) - max(0, pixel - HALF_WIDTH) for pixel in centre)
    for _, centre in CENTRES
)
"""Share of the cube in the boxes, clipped to [0, 1]."""


def optimal(side: int) -> Space:
    """The true decision space: the class in each box, null elsewhere."""
    space = np.full((side, side, side), NULL, np.int8)
    points = np.linspace(0, 1, side)
    for label, centre in CENTRES:
        space[np.ix_(*(np.abs(points - pixel) <= HALF_WIDTH for pixel in centre))] = label
    return space


def shares(space: Space) -> dict[str, float]:
    """Shares of the grid's points.

    Returns:
        ``down``, ``up`` and ``null`` (they sum to 1); ``wrong``: a class outside its boxes; and, of
        the points in boxes, ``right``: the class of the box.
    """
    true = optimal(space.shape[0])
    is_in_box = true != NULL
    return {
        "down": float(np.mean(space == DOWN)),
        "up": float(np.mean(space == UP)),
        "null": float(np.mean(space == NULL)),
        "wrong": float(np.mean((space != NULL) & (space != true))),
        "right": float(np.mean((space == true)[is_in_box])) if is_in_box.any() else math.nan,
    }


def exposed_faces(shown: npt.NDArray[np.bool_]) -> list[tuple[int, int, npt.NDArray[np.intp]]]:
    """The faces of shown cells that no other shown cell hides.

    Args:
        shown: ``(S, S, S)``.

    Returns:
        Axis, direction (-1 or +1) along it, and the cells ``(N, 3)`` with a face there.
    """
    padded = np.pad(shown, 1)
    inner = (slice(1, -1),) * 3
    return [
        (axis, direction, np.argwhere(shown & ~np.roll(padded, -direction, axis)[inner]))
        for axis in range(3)
        for direction in (-1, 1)
    ]


def face_corners(
    cells: npt.NDArray[np.intp], axis: int, direction: int, side: int
) -> npt.NDArray[np.float64]:
    """Corners ``(N, 4, 3)`` of the faces of cells, in order round each face.

    A cell extends half a step to either side of its grid point, clipped to the cube.
    """
    first, second = (other for other in range(3) if other != axis)
    offsets = np.full((4, 3), 0.5 * direction)
    offsets[:, first] = (-0.5, 0.5, 0.5, -0.5)
    offsets[:, second] = (-0.5, -0.5, 0.5, 0.5)
    return np.asarray(((cells[:, None, :] + offsets) / (side - 1)).clip(0, 1))


def run_lengths(space: Space) -> str:
    """A decision space as text for the script of the page.

    Cells in C order are cut into runs of one answer. A run is the number ``4 length + answer``
    (null is answer 2) in base 128, lowest digit first, with 128 added to every byte but the last.
    The bytes are encoded in base 64.
    """
    cells = np.where(space == NULL, 2, space).ravel().astype(np.int64)
    ends = np.append(np.flatnonzero(np.diff(cells)) + 1, cells.size)
    encoded = bytearray()
    for number in (4 * np.diff(ends, prepend=0) + cells[ends - 1]).tolist():
        while number > 127:
            encoded.append(128 + number % 128)
            number //= 128
        encoded.append(number)
    return base64.b64encode(bytes(encoded)).decode()
