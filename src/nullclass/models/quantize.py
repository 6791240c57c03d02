"""Weights rounded once, for small checkpoints: as float16, or as bytes with a scale for each row.

A row is what makes one output of a layer. As bytes, ``w = scale q`` with whole q in -127 … 127 and
``scale = max |w| / 127`` (symmetric, by row: Krishnamoorthi 2018, *Quantizing deep convolutional
networks for efficient inference*; here only for storing, the network computes in float32). Biases
and other tensors of one dimension stay as they are.

The rounded network is the one that is loaded, attacked and proved: what is stored is exact for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from nullclass.core.errors import UserError

Stored = Literal["exact", "float16", "int8"]
"""How weights are stored: as they are, in half of float32's room, or in a quarter."""

SCALE = ".int8_scale"
"""Ends the name of the scales ``(rows,)`` of a tensor of bytes."""

_LARGEST = 127


def packed(tensors: Mapping[str, Tensor], stored: Stored) -> dict[str, Tensor]:
    """Tensors by name as they are stored.

    Args:
        tensors: Weights and buffers, by name.
        stored: How.

    Raises:
        UserError: If there is no such way, or a weight is too large for float16 or not finite.
    """
    if stored == "exact":
        return dict(tensors)
    if stored not in ("float16", "int8"):
        raise UserError(f"weights cannot be stored as {stored!r}: choose exact, float16 or int8")
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
        if result[name].is_floating_point() and not bool(result[name].isfinite().all()):
            raise UserError(f"{name} holds numbers that {stored} cannot hold: store it exactly")
    return result


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that :func:`packed` stored, in float32 again; others as they are."""
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
            result[name] = tensor.float() * _by_row(scales[name].float(), tensor)
        elif name.removesuffix(SCALE) not in scales:
            result[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return result


def _as_bytes(tensor: Tensor) -> tuple[Tensor, Tensor]:
    largest = tensor.abs().flatten(1).amax(dim=1)
    if not bool(largest.isfinite().all()):
        raise UserError("weights that are not finite cannot be stored as bytes")
    scale = (largest / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    whole = (tensor / _by_row(scale, tensor)).round().clamp(-_LARGEST, _LARGEST)
    return whole.to(torch.int8), scale


def _by_row(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (tensor.ndim - 1))
