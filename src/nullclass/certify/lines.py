"""Two straight lines that hold a function between them, wherever its input is in a box.

    lower_slope * x + lower_shift  <=  f(x)  <=  upper_slope * x + upper_shift      on [l, u]

ReLU and what is clipped: Zhang et al. 2018 (CROWN), figure 1 and section 3.3, the lower line of the
larger area. Functions that curve: the chord where it is a bound, else a tangent in the middle where
the function curves one way only, else the smaller of the slopes at the two ends (Singh et al. 2018,
"Fast and effective robustness certification", theorem 3.2), which needs no search for a tangent.

Shifts are moved outward by more than all that was rounded in them; the box's own ends were too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.certify.regions import Box
from nullclass.certify.rounding import Rounding

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Lines:
    """For each output: two lines over the one input that it looks at."""

    lower_slope: Tensor
    """``(N, …)``, as the outputs; never negative, nor is the upper one."""
    lower_shift: Tensor
    upper_slope: Tensor
    upper_shift: Tensor
    chosen: Tensor | None = None
    """Which input of its channel's plane, flattened; None: the one in the same place."""


LinesOver = Callable[[Box, Rounding], Lines]
"""From the box of the inputs to the lines."""


def flat_lines(apply: Function, box: Box, rounding: Rounding) -> Lines:
    """Of any function that never falls: its values at the ends."""
    lower, upper = box.corners(rounding)
    low, high = apply(lower), apply(upper)
    zero = torch.zeros_like(low)
    margin = 32 * rounding.unit * (1 + low.abs() + high.abs())
    return Lines(zero, low - margin, zero, high + margin)


def clipped_lines(least: float, most: float, box: Box, rounding: Rounding) -> Lines:
    """Of ``max(least, min(most, x))``; ReLU is that with 0 and infinity."""
    l, u = box.corners(rounding)  # noqa: E741
    low, high = l.clamp(least, most), u.clamp(least, most)
    rise = high - low
    upper_slope = _quotient(rise, u.clamp(max=most) - l)
    lower_slope = _quotient(rise, u - l.clamp(min=least))
    # Over (l, low) and under (u, high), or flat: whichever leaves less room.
    upper_slope = upper_slope * (low + upper_slope * (u - l) / 2 <= high)
    lower_slope = lower_slope * (high - lower_slope * (u - l) / 2 >= low)
    lower_at = torch.where(lower_slope > 0, high - lower_slope * u, low)
    upper_at = torch.where(upper_slope > 0, low - upper_slope * l, high)
    margin = 32 * rounding.unit * (l.abs() + u.abs() + low.abs() + high.abs())
    return Lines(lower_slope, lower_at - margin, upper_slope, upper_at + margin)


def leaky_lines(slope: float, box: Box, rounding: Rounding) -> Lines:
    """Of ``slope * x + (1 - slope) * relu(x)``, slope in [0, 1]."""
    relu, rest = clipped_lines(0, torch.inf, box, rounding), 1 - slope
    margin = 32 * rounding.unit * (box.center.abs() + box.radius)
    return Lines(
        slope + rest * relu.lower_slope,
        rest * relu.lower_shift - margin,
        slope + rest * relu.upper_slope,
        rest * relu.upper_shift + margin,
    )


def curved_lines(
    apply: Function, slope_at: Function, turn: float, box: Box, rounding: Rounding
) -> Lines:
    """Of a rising function, convex below ``turn`` and concave above it, of slope at most 1.

    Args:
        apply: The function.
        slope_at: Its slope.
        turn: 0 for tanh and the sigmoid, infinity for one that is convex everywhere.
        box: Of the inputs.
        rounding: Margins.
    """
    l, u = box.corners(rounding)  # noqa: E741
    low, high, middle = apply(l), apply(u), (l + u) / 2
    is_wide = u - l > 1e-9 * (1 + l.abs() + u.abs())  # else the chord's slope is noise
    chord = torch.where(is_wide, _quotient(high - low, u - l), 0)
    at_l, at_u, at_middle = slope_at(l), slope_at(u), slope_at(middle)
    least = torch.minimum(at_l, at_u)

    def line(
        is_chord: Tensor, is_tangent: Tensor, end: Tensor, value: Tensor
    ) -> tuple[Tensor, ...]:
        slope = torch.where(is_chord, chord, torch.where(is_tangent, at_middle, least))
        at_tangent = is_tangent & ~is_chord
        point = torch.where(at_tangent, middle, end)
        height = torch.where(at_tangent, apply(middle), value)
        slope = torch.where(is_wide, slope, 0)
        return slope, torch.where(is_wide, height - slope * point, value)

    lower_slope, lower_at = line(at_l >= chord, u <= turn, l, low)
    upper_slope, upper_at = line(at_u >= chord, l >= turn, u, high)
    margin = 64 * rounding.unit * (1 + l.abs() + u.abs() + low.abs() + high.abs())
    return Lines(lower_slope, lower_at - margin, upper_slope, upper_at + margin)


def pooled_lines(settings: dict[str, Any], box: Box, rounding: Rounding) -> Lines:
    """Of max-pooling: never below the input with the largest lower end, nor above the largest end.

    Where that input's lower end is above all other inputs' upper ends, the maximum is that input;
    seen where windows do not overlap.
    """
    lower, upper = box.corners(rounding)
    _, chosen = F.max_pool2d(lower, **settings, return_indices=True)
    highest = F.max_pool2d(upper, **settings)
    places = chosen.flatten(2)
    is_sure = torch.zeros_like(chosen, dtype=torch.bool)
    if _is_disjoint(**settings):
        others = upper.flatten(2).scatter(2, places, -torch.inf).view_as(upper)
        largest = lower.flatten(2).gather(2, places).view_as(highest)
        is_sure = largest > F.max_pool2d(others, **settings)
    one = torch.ones_like(highest)
    return Lines(one, torch.zeros_like(one), one * is_sure, highest * ~is_sure, chosen)


def _is_disjoint(kernel_size: Any, stride: Any = None, dilation: Any = 1, **_: Any) -> bool:
    size, step, gap = (
        torch.tensor(value) for value in (kernel_size, stride or kernel_size, dilation)
    )
    return bool((step >= size).all() and (gap == 1).all())


def sigmoid_slope(x: Tensor) -> Tensor:
    """The product of s and 1 - s, without cancellation in the tails."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def tanh_slope(x: Tensor) -> Tensor:
    """1 - tanh^2."""
    return 4 * sigmoid_slope(2 * x)


def _quotient(rise: Tensor, run: Tensor) -> Tensor:
    """``rise / run``, 0 where nothing rises; gradients stay finite."""
    is_rising = (rise > 0) & (run > 0)
    return torch.where(is_rising, rise / torch.where(is_rising, run, 1), 0)
