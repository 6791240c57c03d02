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


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that :func:`packed` stored, in float32 again."""
    scales = {
        name: tensors[name + SCALE]
        for name, tensor in tensors.items()
        if tensor.dtype == torch.int8
        and name + SCALE in tensors
        and tensors[name + SCALE].shape == tensor.shape[:1]
    }
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in scales:
            result[name] = tensor.float() * _per_row(scales[name].float(), tensor)
        elif name.removesuffix(SCALE) not in scales:
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
