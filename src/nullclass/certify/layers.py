"""Bounds of one layer. One class per kind of layer.

Convolution, linear layer, batch norm in evaluation, average pooling and shift by a constant are
affine; ReLU, tanh, sigmoid and the maximum are monotone.

Forward, ``bound`` maps a region to a region. Backward, ``backward`` maps a linear function of the
outputs to a linear function of the inputs that is nowhere larger
(:mod:`nullclass.certify.crown`).
"""

# ruff: noqa: D102 - the methods of all layers are described in Layer and Affine

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nullclass.certify.regions import Box, Ellipsoid, Region, to_box
from nullclass.certify.relaxations import Relax
from nullclass.certify.rounding import Rounding


@dataclass(frozen=True)
class LinearBound:
    """``sum(coefs * inputs) + offset - error``, a lower bound of a function of the outputs."""

    coefs: tuple[Tensor, ...]
    """Coefficients ``(N, M, …)`` of each input."""
    offset: Tensor | float = 0.0
    """``(N, M)``."""
    error: Tensor | float = 0.0
    """``(N, M)``: more than all rounding here and where offsets are summed."""


class Layer(ABC):
    """One step of a network."""

    num_inputs = 1

    @abstractmethod
    def value(self, *inputs: Tensor) -> Tensor:
        """The output, as the network computes it."""

    @abstractmethod
    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        """A region that contains the outputs for all inputs in the given regions."""

    @abstractmethod
    def backward(self, coefs: Tensor, *inputs: Box, rounding: Rounding) -> LinearBound:
        """Lower bound of ``coefs * outputs`` by the inputs; ``coefs`` is ``(N, M, …)``."""

    def to(self, dtype: torch.dtype) -> Layer:
        """The same layer for another type of activations."""
        return self


class Affine(Layer):
    """``W x + b``, with one W per input."""

    @abstractmethod
    def magnitude(self, *sizes: Tensor) -> Tensor:
        """``|W| s + |b|``: the sum of the absolute values of all terms, for ``|x| <= s``."""

    def num_terms(self, size: Tensor, *inputs: Box) -> int:
        """Largest number of terms of an output plus that of outputs of an input; 0 for 1 and 1."""
        return 0

    def transposed(self, coefs: Tensor, *inputs: Box) -> tuple[Tensor, ...]:
        """``coefs W``, ``(N, M, …)`` per input."""
        rows, needs_graph = coefs.flatten(0, 1), torch.is_grad_enabled()
        with torch.enable_grad():
            zeros = [
                box.center.new_zeros(len(rows), *box.center.shape[1:], requires_grad=True)
                for box in inputs
            ]
            parts = torch.autograd.grad(self.value(*zeros), zeros, rows, create_graph=needs_graph)
        return tuple(part.view(*coefs.shape[:2], *part.shape[1:]) for part in parts)

    def backward(self, coefs: Tensor, *inputs: Box, rounding: Rounding) -> LinearBound:
        constant = self.value(*(torch.zeros_like(box.center[:1]) for box in inputs))
        offset = weighted_sum(coefs, constant.expand(len(coefs), *constant.shape[1:]))
        size = self.magnitude(*(box.center.abs() + box.radius for box in inputs))
        error = rounding_error(coefs, size, self.num_terms(size, *inputs), rounding)
        return LinearBound(self.transposed(coefs, *inputs), offset, error)


@dataclass(frozen=True)
class Linear(Affine):
    """A matrix or a convolution: ``c' = W c + b``, ``r' = |W| r``.

    The margin: ``r`` is widened by ``gamma |c|`` before the product with ``|W|``, so that the
    radius covers the rounding of both products without a third one. What underflows in that sum is
    far below the rounding of ``r``, as every radius contains ``tiny``.
    """

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """Maps inputs, weight and bias to outputs."""
    weight: Tensor
    """``(out, …)``."""
    bias: Tensor | None

    def value(self, *inputs: Tensor) -> Tensor:
        return self.apply(inputs[0], self.weight, self.bias)

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        (region,) = inputs
        gamma = rounding.gamma(self.weight[0].numel())
        center = self.value(region.center)
        spread = region.slack + rounding.tiny if isinstance(region, Ellipsoid) else region.radius
        size, is_matrix = self.weight.abs(), self.weight.ndim == 2
        if gamma:
            spread = region.center.abs().mul_(gamma).add_(spread)
        if gamma and not is_matrix:  # there are fewer weights than outputs
            size = size * (1 + 2 * gamma)
        radius = self.apply(spread, size, self._margin(gamma, rounding) if gamma else None)
        if gamma and is_matrix:
            radius = radius * (1 + 2 * gamma)
        if isinstance(region, Ellipsoid):  # radius * ||scale * W_i||_2 (Cauchy-Schwarz)
            norms = self.apply(region.scale**2, self.weight**2, None).sqrt()
            # Squares underflow where the weights are still far above the smallest number.
            norms = norms + math.sqrt(rounding.tiny)
            radius = radius + region.radius * (1 + 2 * gamma) * norms
        return Box(center, radius)

    def magnitude(self, *sizes: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.abs()
        return self.apply(sizes[0], self.weight.abs(), bias)

    def num_terms(self, size: Tensor, *inputs: Box) -> int:
        return self.weight[0].numel() + len(self.weight) * self.weight[0, 0].numel()

    def transposed(self, coefs: Tensor, *inputs: Box) -> tuple[Tensor, ...]:
        is_matrix = self.weight.ndim == 2
        return (coefs @ self.weight,) if is_matrix else super().transposed(coefs, *inputs)

    def to(self, dtype: torch.dtype) -> Linear:
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, weight=self.weight.to(dtype), bias=bias)

    def _margin(self, gamma: float, rounding: Rounding) -> Tensor:
        """Per output: the rounding of the bias, and underflow of the products."""
        if self.bias is None:
            return self.weight.new_full((len(self.weight),), rounding.tiny)
        return gamma * self.bias.detach().abs() + rounding.tiny


@dataclass(frozen=True)
class Scale(Affine):
    """``scale * x + shift`` per coordinate: batch norm in evaluation, standardisation.

    The factors are stored in float64 and cast to the type of the inputs. The margin covers their
    rounding in both types.
    """

    scale: Tensor
    """Broadcasts over ``(N, …)``."""
    shift: Tensor
    terms: Tensor
    """Sum of the absolute values of the terms of the shift, which may cancel."""
    is_identity: bool = field(init=False)
    """Whether nothing changes and nothing is rounded: mean 0 and standard deviation 1."""

    def __post_init__(self) -> None:
        """Look at the numbers once."""
        is_identity = bool((self.scale == 1).all() & (self.terms == 0).all())
        object.__setattr__(self, "is_identity", is_identity)

    def value(self, *inputs: Tensor) -> Tensor:
        (values,) = inputs
        return values * self.scale.to(values) + self.shift.to(values)

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        (region,) = inputs
        if self.is_identity:
            return region
        center = self.value(region.center)
        scale = self.scale.to(center)
        gamma = rounding.gamma(12)  # two operations here, those of the factors, and the margin's
        spread = region.slack if isinstance(region, Ellipsoid) else region.radius
        spread = spread * scale.abs()
        if gamma:
            margin = gamma * ((region.center * scale).abs() + self.terms.to(center))
            spread = spread * (1 + gamma) + margin + rounding.tiny
        if isinstance(region, Ellipsoid):
            return Ellipsoid(
                center, region.scale * scale.abs() * (1 + gamma), region.radius, spread
            )
        return Box(center, spread)

    def magnitude(self, *sizes: Tensor) -> Tensor:
        return sizes[0] * self.scale.abs().to(sizes[0]) + self.terms.to(sizes[0])


@dataclass(frozen=True)
class AveragePool(Affine):
    """The mean over windows, of center and radius alike."""

    apply: Callable[[Tensor], Tensor]
    window: int | None
    """Largest number of pixels in a window; None for all pixels of a channel."""

    def value(self, *inputs: Tensor) -> Tensor:
        return self.apply(inputs[0])

    magnitude = value

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        box = to_box(inputs[0], rounding)
        gamma = rounding.gamma(self._window_of(box))
        inflated = torch.add(box.radius, box.center.abs(), alpha=gamma) if gamma else box.radius
        radius = self.apply(inflated)
        return Box(self.apply(box.center), radius * (1 + 2 * gamma) + rounding.tiny)

    def num_terms(self, size: Tensor, *inputs: Box) -> int:
        return self._window_of(inputs[0]) + size[0, 0].numel()

    def _window_of(self, box: Box) -> int:
        return self.window or box.center[0, 0].numel()


@dataclass(frozen=True)
class Sum(Affine):
    """The sum of two branches, as in a residual network."""

    num_inputs = 2
    sign: int = 1
    """-1 for the difference."""

    def value(self, *inputs: Tensor) -> Tensor:
        return inputs[0] + self.sign * inputs[1]

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        first, second = (to_box(region, rounding) for region in inputs)
        center = self.value(first.center, second.center)
        radius = first.radius + second.radius
        if rounding.unit:
            radius = radius * (1 + rounding.gamma(1)) + rounding.gamma(1) * center.abs()
        return Box(center, radius)

    def magnitude(self, *sizes: Tensor) -> Tensor:
        return sizes[0] + sizes[1]


@dataclass(frozen=True)
class Reshape(Layer):
    """The same numbers in another shape: flatten, identity, dropout in evaluation."""

    shape: tuple[int, ...]
    """Of one image's output."""

    def value(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(inputs[0].shape[0], *self.shape)

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        (region,) = inputs
        if isinstance(region, Box):
            return Box(self.value(region.center), self.value(region.radius))
        center, scale, slack = map(self.value, (region.center, region.scale, region.slack))
        return Ellipsoid(center, scale, region.radius, slack)

    def backward(self, coefs: Tensor, *inputs: Box, rounding: Rounding) -> LinearBound:
        return LinearBound((coefs.reshape(*coefs.shape[:2], *inputs[0].center.shape[1:]),))


@dataclass(frozen=True)
class Monotone(Layer):
    """A non-decreasing function of each coordinate or of several: ReLU, max-pooling."""

    apply: Callable[[Tensor], Tensor]
    relax: Relax
    """Its linear relaxation."""
    is_exact: bool = True
    """Whether it only selects numbers, as ReLU and the maximum do, and rounds nothing."""

    def value(self, *inputs: Tensor) -> Tensor:
        return self.apply(inputs[0])

    def bound(self, *inputs: Region, rounding: Rounding) -> Region:
        box = to_box(inputs[0], rounding)
        if self.apply is torch.relu:
            return _relu_bound(box, rounding)
        if self.is_exact or not rounding.unit:
            return Box.between(self.apply(box.lower), self.apply(box.upper), rounding)
        # Corners outward by their own rounding, then values by the function's error: some units in
        # the last place of values of at most 1, or of the argument.
        lower, upper = (self.apply(corner) for corner in box.corners(rounding))
        outward = 8 * rounding.unit
        lower = lower - torch.add(outward, lower.abs(), alpha=outward)
        upper = upper + torch.add(outward, upper.abs(), alpha=outward)
        return Box.between(lower, upper, rounding)

    def backward(self, coefs: Tensor, *inputs: Box, rounding: Rounding) -> LinearBound:
        (box,) = inputs
        lines = self.relax(box, rounding)
        positive, negative = coefs.clamp(min=0), coefs.clamp(max=0)
        part = positive * lines.lower_slope[:, None] + negative * lines.upper_slope[:, None]
        offset = weighted_sum(positive, lines.lower_intercept)
        offset = offset + weighted_sum(negative, lines.upper_intercept)
        size = box.center.abs() + box.radius
        if lines.index is not None:  # scatter from windows to inputs
            index = lines.index.flatten(2)
            size = size.flatten(2).gather(2, index).view_as(lines.index)
            part = part.flatten(3)
            zeros = part.new_zeros(*coefs.shape[:2], *box.center[0].flatten(1).shape)
            part = zeros.scatter_add(3, index[:, None].expand(part.shape), part)
            part = part.view(*coefs.shape[:2], *box.center.shape[1:])
        slope = torch.maximum(lines.lower_slope, lines.upper_slope)
        intercept = torch.maximum(lines.lower_intercept.abs(), lines.upper_intercept.abs())
        # One coordinate sums as many terms as windows overlap: at most the number of outputs.
        error = rounding_error(coefs, slope * size + intercept, 0, rounding)
        return LinearBound((part,), offset, error)


def _relu_bound(box: Box, rounding: Rounding) -> Box:
    """``Box.between`` of both corners in fewer passes, because the lower one is not negative.

    From the stored center to either end is at most ``upper - center`` and six roundings of the
    upper corner, which is at most twice the center: two of the corners, three of the center, one of
    the difference. The upper corner is at least so large that its margin contains ``tiny``.
    """
    outward = 16 * rounding.unit
    lower, upper = box.lower.relu_(), box.upper
    upper = upper.clamp_(min=4 * rounding.tiny / outward) if outward else upper.relu_()
    if lower.requires_grad:
        center = torch.lerp(lower, upper, 0.5)
        radius = upper - center
    else:  # new memory costs more than a pass over old
        center = lower.add_(upper).mul_(0.5)
        radius = upper.sub_(center)
    return Box(center, radius.add_(center, alpha=outward) if outward else radius)


def weighted_sum(coefs: Tensor, values: Tensor) -> Tensor:
    """``sum(coefs * values)``: ``(N, M, …)`` and ``(N, …)`` to ``(N, M)``."""
    return torch.einsum("nmd,nd->nm", coefs.flatten(2), values.flatten(1))


_EXTRA_TERMS = 500
"""More offsets than are ever added up, and the roundings of the margins."""


def rounding_error(coefs: Tensor, size: Tensor, num_terms: int, rounding: Rounding) -> Tensor:
    """Bound of the rounding of ``sum(coefs * x)``, ``|x|`` being sums of terms of ``size``.

    ``num_terms`` are those of the new coefficients and of the size; the sum itself has as many
    terms as there are outputs.
    """
    gamma = rounding.gamma(num_terms + size[0].numel() + _EXTRA_TERMS)
    return weighted_sum(coefs.abs(), size) * (2 * gamma) + rounding.tiny
