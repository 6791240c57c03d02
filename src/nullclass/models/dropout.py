"""Dropout whose masks are cheap to draw.

Torch draws one float per unit; here eight units share one 64-bit draw, which saves a tenth of a
training step of the report's network on a CPU (LOG.md). The masks come from torch's global CPU
generator on every device, so that the same seed drops the same units everywhere.
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

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 255 / 256:
            raise ValueError(f"the share dropped must be in [0, 255/256], not {p}")
        self.p = p
        self.level = round(256 * p)
        """Of 256 equally likely bytes, how many drop their unit."""

    def forward(self, values: Tensor) -> Tensor:
        """``values`` in evaluation; masked and scaled in training."""
        if not self.training:
            return values
        count = values.numel()
        words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        is_kept = words.view(torch.uint8)[:count].view(values.shape) >= self.level
        return values * (is_kept.to(values) * (256 / (256 - self.level)))

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
