"""How the size of a perturbation is told.

``linf`` is the largest change of a pixel and ``l2`` the Euclidean length, both in pixel units;
``l0`` is the share of pixels changed, |d|_0 / |X| in Hosseini et al. 2017. A pixel is a position
(h, w): it is changed if any of its channels is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.core.norms import NORMS

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Measure:
    """A way to tell a size."""

    size: Callable[[Tensor], Tensor]
    """``(N, C, H, W)`` perturbations to their ``(N,)`` sizes."""
    largest: Callable[[Shape], float]
    """``(C, H, W)`` to the largest size there is within [0,1]."""


def _share_changed(delta: Tensor) -> Tensor:
    return (delta != 0).any(dim=1).flatten(1).to(delta.dtype).mean(dim=1)


MEASURES: dict[str, Measure] = {
    "linf": Measure(NORMS["linf"].size, lambda shape: 1.0),
    "l2": Measure(NORMS["l2"].size, lambda shape: math.sqrt(math.prod(shape))),
    "l0": Measure(_share_changed, lambda shape: 1.0),
}
"""Name to measure (names without torch: :data:`nullclass.results.null_curve.LARGEST_SIZE`)."""


def find_measure(name: str) -> Measure:
    """The measure of that name.

    Raises:
        UserError: If it is unknown.
    """
    if name not in MEASURES:
        raise UserError(f"there is no measure {name!r}: choose one of {', '.join(MEASURES)}")
    return MEASURES[name]


def size_of(perturbed: Tensor, clean: Tensor, measure: str) -> Tensor:
    """Sizes ``(N,)`` of what was done to images ``(N, C, H, W)``.

    Raises:
        UserError: If the measure is unknown.
    """
    return find_measure(measure).size(perturbed - clean)


def foremost(scores: Tensor, shares: Tensor) -> Tensor:
    """Mark the pixels of the largest scores, as many as a size in ``l0`` allows.

    Args:
        scores: ``(N, H, W)``; of equal ones the first comes first.
        shares: ``(N,)`` shares of the pixels; part of a pixel is none.

    Returns:
        ``(N, 1, H, W)`` booleans.
    """
    scores_in_line = scores.flatten(1)
    num_pixels = scores_in_line.shape[1]
    # A share of k / num_pixels in float32 may be a rounding short of k pixels.
    counts = (shares * (num_pixels * (1 + 1e-6))).floor()
    order = scores_in_line.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(num_pixels, device=scores.device).expand_as(order)
    places = torch.empty_like(order).scatter_(1, order, place)
    return (places < counts[:, None]).view_as(scores).unsqueeze(1)
