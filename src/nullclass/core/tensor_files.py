"""Writes tensors as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from nullclass.core.files import replacing


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors of any device and layout atomically.

    Raises:
        CannotWriteError: As :func:`nullclass.core.files.replacing`.
    """
    # Cloned, since safetensors refuses tensors that share memory (tied layers).
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with replacing(path) as temporary:
        save_file(copies, temporary, metadata=metadata)
