"""Examples of images of three pixels: ramps, and null images of two kinds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nullclass.report.blocks import Drawing
from nullclass.report.style import WIDTH, sheet
from nullclass.studies.ramps.cube import CENTRES, CLASS_NAMES, HALF_WIDTH

NUM_SHOWN = 7
"""Images per kind."""
SEED = 2020
ROW = 1.75
"""Height of a row of images."""

Images = npt.NDArray[np.float64]


def sample_kinds(rng: np.random.Generator, num: int = NUM_SHOWN) -> dict[str, Images]:
    """Images ``(num, 3)`` in [0, 1] of each kind: four of ramps, two of null images."""

    def ramps(centres: Images) -> Images:
        noise = rng.uniform(-HALF_WIDTH, HALF_WIDTH, centres.shape)
        return np.asarray((centres + noise).clip(0, 1))

    kinds = {}
    for label, centre in CENTRES:
        side = "left" if centre[2] == 0 else "right"
        kinds[f"{CLASS_NAMES[label]}, {side}"] = ramps(np.tile(centre, (num, 1)))
    kinds["null, uniform"] = rng.uniform(0, 1, (num, 3))
    chosen = np.array([centre for _, centre in CENTRES])[rng.integers(len(CENTRES), size=num)]
    kinds["null, shuffled"] = rng.permuted(ramps(chosen), axis=1)
    return kinds


def ramp_samples() -> Drawing:
    """One row per kind: bars as high as the pixel values, the pixels below."""
    kinds = sample_kinds(np.random.default_rng(SEED))
    alt = f"{NUM_SHOWN} images each of {'; '.join(kinds)}"
    with sheet("fig_ramp_samples", alt, (WIDTH, 3.4)) as (figure, drawn):
        axes = figure.subplots()
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
        drawn,
        is_large=True,
    )
