"""Where tensors live: the name a user gives, checked before any work is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nullclass.core.checks import shown
from nullclass.core.errors import UserError

BATCH_SIZE = 512
"""Images moved to the device at once, unless they are large; a forward pass may take fewer.

It is part of what a seed means: attacks have one seed per batch
(:func:`nullclass.scoring.score.batch_seed`), and null curves and smoothing draw their noise batch
by batch. With another value the same seed gives other results.
"""


MAX_VALUES = 2**24
"""Pixel values moved to the device at once, 64 MiB of float32: large images come in fewer."""


def images_at_once(shape: torch.Size) -> int:
    """Return how many images of a set ``(N, C, H, W)`` are moved to the device at once."""
    return max(1, min(BATCH_SIZE, MAX_VALUES // shape[1:].numel()))


def in_float64(values: Tensor | float) -> Tensor:
    """Return values as float64, on the CPU if their device has no float64, as MPS."""
    if not isinstance(values, Tensor):
        return torch.tensor(values, dtype=torch.float64)
    return (values.cpu() if values.device.type == "mps" else values).double()


def default_batch_size(images: Tensor) -> int:
    """Return the number of images per forward and backward pass if the caller gives none.

    On a CPU 64 MNIST images stay in the caches (LOG.md); large images get smaller batches.
    """
    is_cpu = images.device.type == "cpu"
    most, num_values = (64, 2**22) if is_cpu else (1024, 2**24)
    return max(1, min(most, num_values // max(1, images[:1].numel())))


def find_device(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into a device that is there.

    Raises:
        UserError: If the name is unknown or this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(
            f"there is no device {shown(name)}: use auto, cpu, cuda, cuda:N or mps"
        ) from None
    if device.type == "cuda":
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    elif device.type == "mps":
        num_devices = int(torch.backends.mps.is_available())
    else:
        num_devices = int(device.type == "cpu")
    is_as_named = str(device) == str(name)  # torch reads cuda:256 as cuda:0
    if not is_as_named or (device.index or 0) >= num_devices:
        raise UserError(f"this machine has no device {name!r}: use the device cpu")
    return device


def supports_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is native there, hence faster than float32 and not slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # oneDNN also says yes where it only emulates
        is_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return bool(torch.backends.mkldnn.is_available() and is_native)
    return False


_LOCK = threading.Lock()
_OPEN: list[None] = []
"""One entry per block of :func:`exact_float32` that is open, in any thread."""
_BEFORE: dict[Any, Any] = {}
"""The callers' settings while a block is open, by the object that has the setting."""


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products in float32 inside the block; then restore the caller's settings.

    CUDA's TF32 keeps 10 bits of a factor: it changes about one prediction in 5,000 (LOG.md). The
    settings are those of the process: of several threads in such a block, the last restores them.
    """
    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    owners = [matmul, cudnn]
    name: str = "allow_tf32"
    fast: tuple[Any, ...] = (True,)
    exact: Any = False
    if hasattr(cudnn, "conv"):  # torch 2.9 and newer; the two APIs must not be mixed
        owners = [matmul, cudnn.conv, cudnn.rnn, backends.mkldnn.matmul]
        name, fast, exact = "fp32_precision", ("tf32", "bf16"), "ieee"
    with _LOCK:
        _OPEN.append(None)
        for owner in owners:
            if (value := getattr(owner, name)) in fast:
                _BEFORE.setdefault(owner, value)
                setattr(owner, name, exact)
    try:
        yield
    finally:
        with _LOCK:
            _OPEN.pop()
            while _BEFORE and not _OPEN:
                owner, value = _BEFORE.popitem()
                setattr(owner, name, value)
