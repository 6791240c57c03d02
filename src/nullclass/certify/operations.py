"""Layers of the torch functions that have bounds, by the names of the functions.

Every function takes the arguments of its torch namesake, ``x`` being the activation, and returns
its layer, or None if it has no bound with these arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.certify import relaxations
from nullclass.certify.layers import AveragePool, Layer, Linear, Monotone, Reshape, Scale, Sum

SUPPORTED = (
    "convolution (zero padding), linear, batch norm in evaluation, average and max pooling, ReLU, "
    "leaky ReLU, ELU (alpha at most 1), tanh, sigmoid, hardtanh, dropout, flatten, view with the "
    "batch first, sums of branches, and sums and products with numbers"
)

RESHAPING = ("flatten", "view", "reshape", "contiguous")
"""Functions that only change the shape."""


def _linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> Layer:
    return Linear(F.linear, weight, bias)


def _conv2d(
    x: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Layer:
    def apply(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(values, weight, bias, stride, padding, dilation, groups)

    is_per_pixel = weight[0].numel() == 1 and len(weight) == groups
    if is_per_pixel and stride in (1, (1, 1)) and padding in (0, (0, 0)):
        return Linear(_per_pixel, weight, bias)  # many times faster than such a convolution
    return Linear(apply, weight, bias)


def _per_pixel(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    scaled = values * weight.view(-1, 1, 1)
    return scaled if bias is None else scaled + bias.view(-1, 1, 1)


def _batch_norm(
    x: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Layer | None:
    if training or running_mean is None or running_var is None:
        return None
    scale = (running_var.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -running_mean.double() * scale
    terms = shift.abs()
    if bias is not None:
        shift = shift + bias.double()
        terms = terms + bias.double().abs()
    shape = (1, -1, *[1] * (x.ndim - 2))
    return Scale(scale.view(shape), shift.view(shape), terms.detach().view(shape))


def _relu(x: Any) -> Layer:
    return Monotone(torch.relu, partial(relaxations.clipped_relaxation, 0.0, torch.inf))


def _hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Layer:
    clamp = partial(torch.clamp, min=min_val, max=max_val)
    return Monotone(clamp, partial(relaxations.clipped_relaxation, min_val, max_val))


def _leaky_relu(x: Any, negative_slope: float = 0.01) -> Layer | None:
    if negative_slope < 0:
        return None
    apply = partial(F.leaky_relu, negative_slope=negative_slope)
    relax = partial(relaxations.leaky_relaxation, negative_slope)
    return Monotone(apply, relax, is_exact=False)


def _curved(apply: Callable[[Tensor], Tensor], slope_at: Any, turn: float) -> Layer:
    relax = partial(relaxations.curved_relaxation, apply, slope_at, turn)
    return Monotone(apply, relax, is_exact=False)


def _elu(x: Any, alpha: float = 1.0) -> Layer | None:
    if not 0 < alpha <= 1:  # otherwise it is not monotone, or not convex
        return None

    def slope_at(values: Tensor) -> Tensor:
        return torch.where(values > 0, 1.0, alpha * values.clamp(max=0).exp())

    return _curved(partial(F.elu, alpha=alpha), slope_at, torch.inf)


def _max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Layer | None:
    if return_indices:
        return None
    settings = {
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": ceil_mode,
    }
    relax = partial(relaxations.max_pool_relaxation, settings)
    return Monotone(partial(F.max_pool2d, **settings), relax)


def _avg_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layer | None:
    if divisor_override is not None:
        return None

    def apply(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, kernel_size, stride, padding, ceil_mode, count_include_pad)

    sides = list(kernel_size) if isinstance(kernel_size, Iterable) else [kernel_size]
    return AveragePool(apply, int(sides[0] * sides[-1]))


def _adaptive_avg_pool2d(x: Any, output_size: Any) -> Layer:
    return AveragePool(partial(F.adaptive_avg_pool2d, output_size=output_size), None)


def _mean(x: Any, dim: Any = None, keepdim: bool = False) -> Layer | None:
    if dim not in ((2, 3), [2, 3], (-2, -1), [-2, -1]):
        return None
    return AveragePool(partial(torch.mean, dim=(2, 3), keepdim=keepdim), None)


def _dropout(x: Any, p: float = 0.5, training: bool = True) -> Layer | None:
    return None if training else Reshape(tuple(x.shape[1:]))


def _add(x: Any, other: Any) -> Layer | None:
    return Sum() if isinstance(other, Tensor) else _scale(1, other)


def _sub(x: Any, other: Any) -> Layer | None:
    return Sum(-1) if isinstance(other, Tensor) else _scale(1, -other)


def _mul(x: Any, other: Any) -> Layer | None:
    return None if isinstance(other, Tensor) else _scale(other, 0)


def _div(x: Any, other: Any) -> Layer | None:
    return None if isinstance(other, Tensor) or other == 0 else _scale(1 / other, 0)


def _scale(factor: float, shift: float) -> Layer:
    scale, number = (torch.tensor([float(value)], dtype=torch.float64) for value in (factor, shift))
    return Scale(scale, number, number.abs())


OPERATIONS: dict[str, Callable[..., Layer | None]] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "batch_norm": _batch_norm,
    "relu": _relu,
    "relu6": lambda x: _hardtanh(x, 0.0, 6.0),
    "hardtanh": _hardtanh,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "tanh": lambda x: _curved(torch.tanh, relaxations.tanh_slope, 0.0),
    "sigmoid": lambda x: _curved(torch.sigmoid, relaxations.sigmoid_slope, 0.0),
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "mean": _mean,
    "dropout": _dropout,
    "dropout2d": _dropout,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
}
