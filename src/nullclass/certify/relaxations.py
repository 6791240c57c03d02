"""Linear relaxations: two lines that bound a function over a box of its inputs.

    lower_slope * x + lower_intercept  <=  f(x)  <=  upper_slope * x + upper_intercept

ReLU and clipping: Zhang et al. 2018 (CROWN), figure 1 and section 3.3, with the lower line of the
larger area. Sigmoid, tanh, ELU: the chord where it is a bound, otherwise the tangent at the
midpoint where the function is convex or concave on the interval, otherwise the smaller slope of the
two ends (Singh et al. 2018, "Fast and effective robustness certification", theorem 3.2), which
needs no search for a tangent.

Intercepts are moved outward by more than all rounding; so are the ends of the box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.certify.regions import Box
from nullclass.certify.rounding import Rounding

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Relaxation:
    """Two lines per output, each over one input."""

    lower_slope: Tensor
    """``(N, …)``, the shape of the outputs; slopes are not negative."""
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor
    index: Tensor | None = None
    """Which input, as an index into its flattened channel; None: the one at the same position."""


Relax = Callable[[Box, Rounding], Relaxation]
"""Maps the box of the inputs to the relaxation."""


def clipped_relaxation(minimum: float, maximum: float, box: Box, rounding: Rounding) -> Relaxation:
    """Relaxation of ``clamp(x, minimum, maximum)``; ReLU is the case 0 and infinity."""
    l, u = box.corners(rounding)  # noqa: E741
    low, high = l.clamp(minimum, maximum), u.clamp(minimum, maximum)
    rise = high - low
    upper_slope = _quotient(rise, u.clamp(max=maximum) - l)
    lower_slope = _quotient(rise, u - l.clamp(min=minimum))
    # Through (l, low) and (u, high), or constant: whichever gives the smaller area.
    upper_slope = upper_slope * (low + upper_slope * (u - l) / 2 <= high)
    lower_slope = lower_slope * (high - lower_slope * (u - l) / 2 >= low)
    lower_at = torch.where(lower_slope > 0, high - lower_slope * u, low)
    upper_at = torch.where(upper_slope > 0, low - upper_slope * l, high)
    margin = 32 * rounding.unit * (l.abs() + u.abs() + low.abs() + high.abs())
    return Relaxation(lower_slope, lower_at - margin, upper_slope, upper_at + margin)


def sloped_relaxation(relax: Relax, slopes: Tensor, box: Box, rounding: Rounding) -> Relaxation:
    """Relaxation of ReLU with given slopes of the lower lines where the sign of the input is open.

    Any slope in [0,1] is sound: ``slope * x <= relu(x)`` for every x, without an intercept.
    """
    lines = relax(box, rounding)
    l, u = box.corners(rounding)  # noqa: E741
    is_open = (l < 0) & (u > 0)
    # Next to a sign that is known up to rounding, only one slope is any good.
    slopes = torch.where(u < 1e-9 * l.abs(), 0, torch.where(l.abs() < 1e-9 * u, 1, slopes))
    return replace(
        lines,
        lower_slope=torch.where(is_open, slopes, lines.lower_slope),
        lower_intercept=torch.where(is_open, 0, lines.lower_intercept),
    )


def leaky_relaxation(slope: float, box: Box, rounding: Rounding) -> Relaxation:
    """Relaxation of ``slope * x + (1 - slope) * relu(x)``, slope >= 0."""
    relu, rest = clipped_relaxation(0, torch.inf, box, rounding), 1 - slope
    margin = 32 * rounding.unit * max(1.0, slope) * (box.center.abs() + box.radius)
    lower = relu.lower_slope, relu.lower_intercept
    upper = relu.upper_slope, relu.upper_intercept
    if rest < 0:
        lower, upper = upper, lower
    return Relaxation(
        slope + rest * lower[0],
        rest * lower[1] - margin,
        slope + rest * upper[0],
        rest * upper[1] + margin,
    )


def curved_relaxation(
    apply: Function, slope_at: Function, turn: float, box: Box, rounding: Rounding
) -> Relaxation:
    """Relaxation of an increasing function, convex below ``turn`` and concave above.

    Args:
        apply: The function, of slope at most 1.
        slope_at: Its derivative.
        turn: 0 for tanh and sigmoid, infinity for a function that is convex everywhere.
        box: Box of the inputs.
        rounding: Margins.
    """
    l, u = box.corners(rounding)  # noqa: E741
    low, high, middle = apply(l), apply(u), (l + u) / 2
    is_wide = u - l > 1e-9 * (1 + l.abs() + u.abs())  # otherwise the chord's slope is noise
    chord = torch.where(is_wide, _quotient(high - low, u - l), 0)
    at_l, at_u, at_middle = slope_at(l), slope_at(u), slope_at(middle)
    smallest = torch.minimum(at_l, at_u)

    def line(
        is_chord: Tensor, is_tangent: Tensor, end: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        slope = torch.where(is_chord, chord, torch.where(is_tangent, at_middle, smallest))
        at_tangent = is_tangent & ~is_chord
        point = torch.where(at_tangent, middle, end)
        height = torch.where(at_tangent, apply(middle), value)
        slope = torch.where(is_wide, slope, 0)
        return slope, torch.where(is_wide, height - slope * point, value)

    lower_slope, lower_at = line(at_l >= chord, u <= turn, l, low)
    upper_slope, upper_at = line(at_u >= chord, l >= turn, u, high)
    margin = 64 * rounding.unit * (1 + l.abs() + u.abs() + low.abs() + high.abs())
    return Relaxation(lower_slope, lower_at - margin, upper_slope, upper_at + margin)


def max_pool_relaxation(settings: dict[str, Any], box: Box, rounding: Rounding) -> Relaxation:
    """Relaxation of max-pooling: at least the input with the largest lower end, at most the largest
    upper end.

    Where this input's lower end is above all other upper ends, the maximum equals this input; used
    only where windows do not overlap.
    """
    lower, upper = box.corners(rounding)
    _, index = F.max_pool2d(lower, **settings, return_indices=True)
    highest = F.max_pool2d(upper, **settings)
    flat = index.flatten(2)
    is_certain = torch.zeros_like(index, dtype=torch.bool)
    if _is_disjoint(**settings):
        others = upper.flatten(2).scatter(2, flat, -torch.inf).view_as(upper)
        largest = lower.flatten(2).gather(2, flat).view_as(highest)
        is_certain = largest > F.max_pool2d(others, **settings)
    one = torch.ones_like(highest)
    return Relaxation(one, torch.zeros_like(one), one * is_certain, highest * ~is_certain, index)


def _is_disjoint(kernel_size: Any, stride: Any = None, dilation: Any = 1, **_: Any) -> bool:
    size, step, gap = map(torch.tensor, (kernel_size, stride or kernel_size, dilation))
    return bool((step >= size).all() and (gap == 1).all())


def sigmoid_slope(x: Tensor) -> Tensor:
    """Derivative of the sigmoid, without cancellation in the tails."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def tanh_slope(x: Tensor) -> Tensor:
    """Derivative of tanh."""
    return 4 * sigmoid_slope(2 * x)


def _quotient(rise: Tensor, run: Tensor) -> Tensor:
    """``rise / run``, 0 where nothing rises; gradients stay finite."""
    is_rising = (rise > 0) & (run > 0)
    return torch.where(is_rising, rise / torch.where(is_rising, run, 1), 0)
