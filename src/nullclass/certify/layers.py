"""What a layer does to a set of activations. One class for each kind of layer there is a bound for.

Kinds, not layers: a convolution, a linear layer, batch norm in evaluation, average pooling and a
shift by a constant are all affine; ReLU, tanh, sigmoid and the maximum never fall.

Forwards a set becomes a set (``bound``); backwards a linear function of a layer's outputs becomes
one of its inputs that is nowhere larger (``pull``), which :mod:`nullclass.certify.crown` needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from nullclass.certify.lines import LinesOver, flat_lines
from nullclass.certify.regions import Ball, Box, Region, boxed
from nullclass.certify.rounding import Rounding

__all__ = [
    "Added",
    "Layer",
    "Linear",
    "LinearBound",
    "Monotone",
    "Pooled",
    "Reshaped",
    "Scale",
    "boxed",
]  # fmt: skip


@dataclass(frozen=True)
class LinearBound:
    """``sum(parts * inputs) + offset - error``: nowhere above the function of the outputs."""

    parts: tuple[Tensor, ...]
    """For each input its coefficients, ``(N, M, …)``."""
    offset: Tensor | float
    """``(N, M)``."""
    error: Tensor | float
    """``(N, M)``: more than what was rounded here and when the offset was added to others."""


class Layer(Protocol):
    """One step of a network."""

    def value(self, *inputs: Tensor) -> Tensor:
        """What it computes, as the network does."""
        ...

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """A set that holds every value it can take on those sets."""
        ...

    def pull(self, coefs: Tensor, *inputs: Region, rounding: Rounding) -> LinearBound:
        """From a linear function of its outputs, ``(N, M, …)``, to one of its inputs below it."""
        ...

    def to(self, dtype: torch.dtype) -> Layer:
        """The same layer for another type of activations."""
        ...


@dataclass(frozen=True)
class Linear:
    """``W x + b``, as a matrix or a convolution: ``c' = W c + b``, ``r' = |W| r``.

    The margin: with ``r`` widened by ``gamma |c|`` before it is multiplied by ``|W|``, the radius
    holds the rounding errors of both products, and no third product is needed.
    """

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """Inputs, weight and bias to outputs."""
    weight: Tensor
    """``(out, …)``, what is summed over last."""
    bias: Tensor | None

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return self.apply(inputs[0], self.weight, self.bias)

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """See :class:`Layer`."""
        (region,) = inputs
        gamma = rounding.gamma(self.weight[0].numel())
        center = self.value(region.center)
        given = region.slack if isinstance(region, Ball) else region.radius
        size = self.weight.abs()
        if gamma:
            given = torch.add(given, region.center.abs(), alpha=gamma)
            size = size * (1 + 2 * gamma)
        radius = self.apply(given, size, self._margin(size, gamma, rounding))
        if isinstance(region, Ball):  # radius * ||scale * W_i||_2 (Cauchy-Schwarz)
            norms = self.apply(region.scale**2, self.weight**2, None).sqrt()
            # Squares vanish where the weights are still far above the smallest number.
            norms = norms + math.sqrt(rounding.tiny)
            radius = radius + region.radius * (1 + 2 * gamma) * norms
        return Box(center, radius)

    def pull(self, coefs: Tensor, *inputs: Region, rounding: Rounding) -> LinearBound:
        """See :class:`Layer`."""
        box = boxed(inputs[0], rounding)
        if self.weight.ndim == 2:
            part = coefs @ self.weight
        else:
            part = _transposed(lambda x: self.apply(x, self.weight, None), coefs, box.center)
        bias = None if self.bias is None else self.bias.abs()
        size = self.apply(box.center.abs() + box.radius, self.weight.abs(), bias)
        num_terms = self.weight[0].numel() + len(self.weight) * self.weight[0, 0].numel()
        offset: Tensor | float = 0.0
        if self.bias is not None:
            offset = weighted_sum(coefs, _by_channel(self.bias, self.weight).expand(size.shape))
        return LinearBound((part,), offset, rounding_error(coefs, size, num_terms, rounding))

    def to(self, dtype: torch.dtype) -> Linear:
        """See :class:`Layer`."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, weight=self.weight.to(dtype), bias=bias)

    def _margin(self, size: Tensor, gamma: float, rounding: Rounding) -> Tensor | None:
        """For each output: the rounding of its bias, and all that vanishes below the smallest."""
        if not gamma:
            return None
        vanished = rounding.tiny * (1 + size.detach().flatten(1).sum(dim=1))
        return vanished if self.bias is None else vanished + gamma * self.bias.detach().abs()


@dataclass(frozen=True)
class Scale:
    """``scale * x + shift`` by coordinate: batch norm in evaluation, standardisation.

    Factors are kept in float64 and used in the type of what comes in. Their own rounding, to that
    type and before in float64, is within the margin.
    """

    scale: Tensor
    """Broadcasts over ``(N, …)``."""
    shift: Tensor
    terms: Tensor
    """Sum of the absolute values that the shift was summed from, which it may have cancelled."""

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        (values,) = inputs
        return values * self.scale.to(values) + self.shift.to(values)

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """See :class:`Layer`."""
        (region,) = inputs
        center = self.value(region.center)
        scale = self.scale.to(center)
        gamma = rounding.gamma(12)  # two of its own, the factors' in float64, and its margin's
        given = region.slack if isinstance(region, Ball) else region.radius
        widened = given * scale.abs()
        if gamma:
            margin = gamma * ((region.center * scale).abs() + self.terms.to(center))
            widened = widened * (1 + gamma) + margin + rounding.tiny
        if isinstance(region, Ball):
            return Ball(center, region.scale * scale.abs() * (1 + gamma), region.radius, widened)
        return Box(center, widened)

    def pull(self, coefs: Tensor, *inputs: Region, rounding: Rounding) -> LinearBound:
        """See :class:`Layer`."""
        box = boxed(inputs[0], rounding)
        scale, shift = self.scale.to(coefs), self.shift.to(coefs)
        size = (box.center.abs() + box.radius) * scale.abs() + self.terms.to(coefs)
        offset = weighted_sum(coefs, shift.expand(size.shape))
        error = rounding_error(coefs, size, 0, rounding)
        return LinearBound((_folded(coefs, coefs * scale[:, None], box),), offset, error)

    def to(self, dtype: torch.dtype) -> Scale:
        """See :class:`Layer`."""
        return self


@dataclass(frozen=True)
class Pooled:
    """Average pooling: the mean of some coordinates, so centre and radius are averaged alike."""

    apply: Callable[[Tensor], Tensor]
    num_terms: int | None
    """Of one mean, at most; None: whatever one channel of an image has."""

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return self.apply(inputs[0])

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """See :class:`Layer`."""
        box = boxed(inputs[0], rounding)
        gamma = rounding.gamma(self._num_terms(box))
        inflated = torch.add(box.radius, box.center.abs(), alpha=gamma) if gamma else box.radius
        radius = self.apply(inflated)
        return Box(self.apply(box.center), radius * (1 + 2 * gamma) + rounding.tiny)

    def pull(self, coefs: Tensor, *inputs: Region, rounding: Rounding) -> LinearBound:
        """See :class:`Layer`."""
        box = boxed(inputs[0], rounding)
        part = _transposed(self.apply, coefs, box.center)
        size = self.apply(box.center.abs() + box.radius)
        num_terms = self._num_terms(box) + size[0, 0].numel()
        return LinearBound((part,), 0.0, rounding_error(coefs, size, num_terms, rounding))

    def to(self, dtype: torch.dtype) -> Pooled:
        """See :class:`Layer`."""
        return self

    def _num_terms(self, box: Box) -> int:
        return box.center[0, 0].numel() if self.num_terms is None else self.num_terms


@dataclass(frozen=True)
class Monotone:
    """A function that never falls, of each coordinate or of several: ReLU, max-pooling."""

    apply: Callable[[Tensor], Tensor]
    is_exact: bool = True
    """Whether it only picks among numbers, as ReLU and the maximum do, and rounds nothing."""
    lines: LinesOver | None = None
    """Lines around it; None: its values at the ends."""

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return self.apply(inputs[0])

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """See :class:`Layer`."""
        box = boxed(inputs[0], rounding)
        if self.apply is torch.relu:
            return _relu_bound(box, rounding)
        lower, upper = box.lower, box.upper
        if rounding.unit and not self.is_exact:
            # Corners outward by their own rounding; the function's own error, some units in the
            # last place of values of at most 1 or of its argument, follows.
            lower, upper = (self.apply(corner) for corner in box.corners(rounding))
            lower = lower - 8 * rounding.unit * (1 + lower.abs())
            upper = upper + 8 * rounding.unit * (1 + upper.abs())
            return Box.between(lower, upper, rounding)
        return Box.between(self.apply(lower), self.apply(upper), rounding)

    def pull(self, coefs: Tensor, *inputs: Region, rounding: Rounding) -> LinearBound:
        """See :class:`Layer`."""
        box = boxed(inputs[0], rounding)
        lines = self.lines(box, rounding) if self.lines else flat_lines(self.apply, box, rounding)
        up, down = coefs.clamp(min=0), coefs.clamp(max=0)
        part = up * lines.lower_slope[:, None] + down * lines.upper_slope[:, None]
        offset = weighted_sum(up, lines.lower_shift) + weighted_sum(down, lines.upper_shift)
        reach = box.center.abs() + box.radius
        if lines.chosen is not None:
            planes = lines.chosen.flatten(2)
            reach = reach.flatten(2).gather(2, planes).view_as(lines.chosen)
            part = part.flatten(3)
            places = planes[:, None].expand(part.shape)
            blank = part.new_zeros(*coefs.shape[:2], *box.center[0].flatten(1).shape)
            part = blank.scatter_add(3, places, part)
            part = part.view(*coefs.shape[:2], *box.center.shape[1:])
        slope = torch.maximum(lines.lower_slope, lines.upper_slope)
        shift = torch.maximum(lines.lower_shift.abs(), lines.upper_shift.abs())
        # As many may be summed into one coordinate as windows overlap: at most all outputs.
        error = rounding_error(coefs, slope * reach + shift, 0, rounding)
        return LinearBound((part,), offset, error)

    def to(self, dtype: torch.dtype) -> Monotone:
        """See :class:`Layer`."""
        return self


@dataclass(frozen=True)
class Reshaped:
    """The same numbers in another shape: flatten, identity, dropout in evaluation."""

    apply: Callable[[Tensor], Tensor]

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return self.apply(inputs[0])

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """See :class:`Layer`."""
        (region,) = inputs
        if isinstance(region, Ball):
            moved = map(self.apply, (region.center, region.scale, region.slack))
            center, scale, slack = moved
            return Ball(center, scale, region.radius, slack)
        return Box(self.apply(region.center), self.apply(region.radius))

    def pull(self, coefs: Tensor, *inputs: Region, rounding: Rounding) -> LinearBound:
        """See :class:`Layer`."""
        return LinearBound(
            (coefs.reshape(*coefs.shape[:2], *inputs[0].center.shape[1:]),), 0.0, 0.0
        )

    def to(self, dtype: torch.dtype) -> Reshaped:
        """See :class:`Layer`."""
        return self


@dataclass(frozen=True)
class Added:
    """The sum of two branches, as in a residual network."""

    sign: int = 1
    """-1 for their difference."""

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return inputs[0] + self.sign * inputs[1]

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """See :class:`Layer`."""
        first, second = (boxed(region, rounding) for region in inputs)
        center = self.value(first.center, second.center)
        radius = first.radius + second.radius
        if rounding.unit:
            radius = radius * (1 + rounding.gamma(1)) + rounding.gamma(1) * center.abs()
        return Box(center, radius)

    def pull(self, coefs: Tensor, *inputs: Region, rounding: Rounding) -> LinearBound:
        """See :class:`Layer`."""
        first, second = (boxed(region, rounding) for region in inputs)
        size = first.center.abs() + first.radius + second.center.abs() + second.radius
        parts = _folded(coefs, coefs, first), _folded(coefs, self.sign * coefs, second)
        return LinearBound(parts, 0.0, rounding_error(coefs, size, 0, rounding))

    def to(self, dtype: torch.dtype) -> Added:
        """See :class:`Layer`."""
        return self


def _relu_bound(box: Box, rounding: Rounding) -> Box:
    """As ``Box.between`` of both corners, in fewer passes over them: the lower one is never < 0.

    From the centre as it is stored to either end is at most ``upper - center`` and six roundings
    more: two of the corners, three of the centre, one of the difference.
    """
    lower, upper = box.lower.relu_(), box.upper.relu_()
    center = torch.lerp(lower, upper, 0.5)
    radius = upper - center
    if rounding.unit:
        radius.add_(upper, alpha=8 * rounding.unit).add_(rounding.tiny)
    return Box(center, radius)


def _by_channel(values: Tensor, weight: Tensor) -> Tensor:
    """Numbers one for each output of a weight, to be broadcast over the outputs."""
    return values.view(-1, *[1] * (weight.ndim - 2))


def _transposed(linear: Callable[[Tensor], Tensor], coefs: Tensor, inputs: Tensor) -> Tensor:
    """``coefs W`` of a map ``W`` without bias, ``(N, M, …)``."""
    folded, is_followed = coefs.flatten(0, 1), torch.is_grad_enabled()
    with torch.enable_grad():
        at = inputs.new_zeros(len(folded), *inputs.shape[1:], requires_grad=True)
        (part,) = torch.autograd.grad(linear(at), at, folded, create_graph=is_followed)
    return part.view(*coefs.shape[:2], *inputs.shape[1:])


def _folded(coefs: Tensor, part: Tensor, box: Box) -> Tensor:
    """Summed over what was broadcast."""
    rows, shape = coefs.shape[:2], box.center.shape[1:]
    if coefs.shape[2:] == shape:
        return part
    summed = part.flatten(0, 1).sum_to_size((rows.numel(), *shape))
    return summed.view((*rows, *shape))


def weighted_sum(coefs: Tensor, values: Tensor) -> Tensor:
    """``sum(coefs * values)``: ``(N, M, …)`` and ``(N, …)`` to ``(N, M)``."""
    return torch.einsum("nmd,nd->nm", coefs.flatten(2), values.flatten(1))


_STEPS = 500
"""More offsets than are ever added up, and the margins' own roundings."""


def rounding_error(coefs: Tensor, size: Tensor, num_terms: int, rounding: Rounding) -> Tensor:
    """The rounding of sums of ``coefs * x``, with ``|x|`` summed from terms of ``size``.

    ``num_terms`` for the coefficients that are made and for the size, as many as there are
    outputs for the sum over them, and some hundreds for adding up layers: twice gamma of that.
    """
    gamma = rounding.gamma(num_terms + size[0].numel() + _STEPS)
    return weighted_sum(coefs.abs(), size) * (2 * gamma) + rounding.tiny
