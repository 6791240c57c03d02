"""Rounds weights for small checkpoints: to float16, or to bytes with a scale per row.

A row holds the weights of one output of a layer. As bytes, ``w = scale * q`` with integers q in
-127 … 127 and ``scale = max |w| / 127`` (symmetric, per row: Krishnamoorthi 2018, "Quantizing deep
convolutional networks for efficient inference"); vectors such as biases stay as they are. Only
storage is rounded; the network computes in float32, with the rounded weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from nullclass.core.checks import check_choice
from nullclass.core.errors import UserError

Stored = Literal["exact", "float16", "int8"]
"""Storage of weights: unchanged, in half the space, or in a quarter."""

SCALE = ".int8_scale"
"""Ending of the name of the scales ``(rows,)`` of a tensor of bytes."""

Layout = tuple[frozenset[torch.dtype], tuple[int, ...]]
"""Types that a stored tensor may have, and its shape."""

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

_LARGEST = 127


def packed(tensors: Mapping[str, Tensor], stored: Stored) -> dict[str, Tensor]:
    """Return tensors by name as they are stored.

    Args:
        tensors: Weights and buffers, by name.
        stored: How to store them.

    Raises:
        UserError: If ``stored`` is unknown, or a weight is not finite or too large for float16.
    """
    if check_choice("stored", stored, get_args(Stored)) == "exact":
        return dict(tensors)
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            result[name] = tensor
        elif stored == "float16":
            result[name] = tensor.half()
        elif tensor.ndim > 1:
            result[name], result[name + SCALE] = _as_bytes(tensor.float())
        else:
            result[name] = tensor.float()
        values = result.get(name + SCALE, result[name])
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise UserError(f"{name} holds numbers that {stored} cannot hold: store it exactly")
    return result


def packed_layout(tensors: Mapping[str, Tensor], stored: Stored) -> dict[str, Layout]:
    """Return the types and shapes that :func:`packed` gives tensors of any device.

    A float that is stored exactly may have any floating-point type.
    """
    result: dict[str, Layout] = {}
    for name, tensor in tensors.items():
        dtypes, shape = FLOATS, tuple(tensor.shape)
        if not tensor.is_floating_point():
            dtypes = frozenset({tensor.dtype})
        elif stored == "float16":
            dtypes = frozenset({torch.float16})
        elif stored == "int8":
            is_bytes = tensor.ndim > 1
            dtypes = frozenset({torch.int8 if is_bytes else torch.float32})
            if is_bytes:
                result[name + SCALE] = frozenset({torch.float32}), shape[:1]
        result[name] = dtypes, shape
    return result


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that :func:`packed` stored, in float32 again."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        scale = tensors.get(name + SCALE)
        if scale is not None:
            result[name] = tensor.float() * _per_row(scale.float(), tensor)
        elif name.removesuffix(SCALE) not in tensors or name.removesuffix(SCALE) == name:
            result[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return result


def _as_bytes(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bytes and the scales; a row that is not finite gets such a scale."""
    scale = (tensor.abs().flatten(1).amax(dim=1) / _LARGEST).clamp(
        min=torch.finfo(torch.float32).tiny
    )
    steps = (tensor / _per_row(scale, tensor)).nan_to_num().round().clamp(-_LARGEST, _LARGEST)
    return steps.to(torch.int8), scale


def _per_row(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (tensor.ndim - 1))
