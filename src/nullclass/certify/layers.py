"""What a layer does to a set of activations. One class for each kind of layer there is a bound for.

Kinds, not layers: a convolution, a linear layer, batch norm in evaluation, average pooling and a
shift by a constant are all affine; ReLU, tanh and sigmoid are all monotone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from nullclass.certify.regions import Ball, Box, Region
from nullclass.certify.rounding import Rounding


class Layer(Protocol):
    """One step of a network."""

    def value(self, *inputs: Tensor) -> Tensor:
        """What it computes, as the network does."""
        ...

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """A set that holds every value it can take on those sets."""
        ...


def boxed(region: Region, rounding: Rounding) -> Box:
    """The region as a box."""
    return region if isinstance(region, Box) else region.boxed(rounding)


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
        inflated = given + gamma * region.center.abs() if gamma else given
        radius = self.apply(inflated, self.weight.abs(), None)
        if isinstance(region, Ball):  # radius * ||scale * W_i||_2 (Cauchy-Schwarz)
            norms = self.apply(region.scale**2, self.weight**2, None).sqrt()
            radius = radius + region.radius * norms
        if gamma:
            radius = radius * (1 + 2 * gamma) + self._bias_margin(gamma, rounding, radius.ndim)
        return Box(center, radius)

    def _bias_margin(self, gamma: float, rounding: Rounding, ndim: int) -> Tensor | float:
        if self.bias is None:
            return rounding.tiny
        margin = gamma * self.bias.detach().abs() + rounding.tiny
        return margin.view(1, -1, *[1] * (ndim - 2))


@dataclass(frozen=True)
class Scale:
    """``scale * x + shift`` by coordinate: batch norm in evaluation, standardisation."""

    scale: Tensor
    """Broadcasts over ``(N, …)``."""
    shift: Tensor

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return inputs[0] * self.scale + self.shift

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """See :class:`Layer`."""
        (region,) = inputs
        center = self.value(region.center)
        gamma = rounding.gamma(2)
        given = region.slack if isinstance(region, Ball) else region.radius
        widened = given * self.scale.abs()
        if gamma:
            margin = gamma * ((region.center * self.scale).abs() + self.shift.abs())
            widened = widened * (1 + gamma) + margin + rounding.tiny
        if isinstance(region, Ball):
            scale = region.scale * self.scale.abs() * (1 + gamma)
            return Ball(center, scale, region.radius, widened)
        return Box(center, widened)


@dataclass(frozen=True)
class Pooled:
    """Average pooling: the mean of some coordinates, so centre and radius are averaged alike."""

    apply: Callable[[Tensor], Tensor]
    num_terms: int

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return self.apply(inputs[0])

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """See :class:`Layer`."""
        box = boxed(inputs[0], rounding)
        gamma = rounding.gamma(self.num_terms)
        inflated = box.radius + gamma * box.center.abs() if gamma else box.radius
        radius = self.apply(inflated)
        return Box(self.apply(box.center), radius * (1 + 2 * gamma) + rounding.tiny)


@dataclass(frozen=True)
class Monotone:
    """A function that never falls, of each coordinate or of several: ReLU, max-pooling."""

    apply: Callable[[Tensor], Tensor]
    is_exact: bool = True
    """Whether it only picks among numbers, as ReLU and the maximum do, and rounds nothing."""

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return self.apply(inputs[0])

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """See :class:`Layer`."""
        box = boxed(inputs[0], rounding)
        lower, upper = box.lower, box.upper
        if rounding.unit and not self.is_exact:
            # Corners outward by their own rounding; the function's own error, some units in the
            # last place of values of at most 1 or of its argument, follows.
            lower = lower - 2 * rounding.unit * lower.abs()
            upper = upper + 2 * rounding.unit * upper.abs()
            lower, upper = self.apply(lower), self.apply(upper)
            lower = lower - 8 * rounding.unit * (1 + lower.abs())
            upper = upper + 8 * rounding.unit * (1 + upper.abs())
            return Box.between(lower, upper, rounding)
        return Box.between(self.apply(lower), self.apply(upper), rounding)


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
