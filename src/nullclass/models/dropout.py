"""Dropout whose masks are cheap to draw, and can be given.

Torch draws one float a unit; here eight units share one 64-bit draw, which took a tenth off a
training step of the report's network on a CPU (LOG.md). The masks come from torch's global CPU
stream, whatever the device, so that the same seed drops the same units everywhere, and models
trained together can each be given the masks they would have drawn alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Sets a share ``p`` of the units to zero in training and scales the others by 1 / (1 - p).

    Args:
        p: Share dropped, in [0, 255/256]; used as the nearest multiple of 1/256.

    Raises:
        ValueError: If ``p`` is out of range.
    """

    mask: Tensor | None
    """Factors ``(N, …)`` to use instead of drawing any; for
    :mod:`nullclass.experiments.stacked`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 255 / 256:
            raise ValueError(f"the share dropped must be in [0, 255/256], not {p}")
        self.p = p
        self.level = round(256 * p)
        """Of 256 equally likely bytes, how many drop their unit."""
        self.register_buffer("mask", None, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """``values`` in evaluation; masked and scaled in training."""
        if not self.training:
            return values
        if self.mask is not None:
            return values * self.mask.to(values)
        return values * (self.draw_kept(values.shape).to(values) * self.scale)

    @property
    def scale(self) -> float:
        """What the units that stay are multiplied with."""
        return 256 / (256 - self.level)

    def draw_kept(self, shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
        """Which units stay, as booleans on the CPU; from torch's global stream unless given one."""
        count = shape.numel()
        words = torch.empty((count + 7) // 8, dtype=torch.int64)
        words.random_(-(2**63), None, generator=generator)
        return words.view(torch.uint8)[:count].view(shape) >= self.level

    def extra_repr(self) -> str:
        """For ``repr``."""
        return f"p={self.p:g}"


@contextmanager
def scaled_dropout(model: nn.Module, factor: float) -> Iterator[None]:
    """Let every :class:`Dropout` of a model drop ``factor`` times its share inside the block."""
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    for layer in layers:
        layer.level = round(256 * layer.p * factor)
    try:
        yield
    finally:
        for layer in layers:
            layer.level = round(256 * layer.p)
