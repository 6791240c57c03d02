"""Dropout with masks that are cheap to draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes each unit with probability ``p`` in training, and scales the rest by 1 / (1 - p).

    Torch draws one float per unit; here eight units share one 64-bit integer, which saves a tenth
    of a training step of the report's network on a CPU (LOG.md). Masks are drawn from torch's
    global CPU generator on every device, so that the same seed drops the same units everywhere.

    Args:
        p: In [0, 255/256]; rounded to a multiple of 1/256.

    Raises:
        ValueError: If ``p`` is out of range.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 255 / 256:
            raise ValueError(f"the dropout probability must be in [0, 255/256], not {p}")
        self.p = p
        self.level = round(256 * p)
        """How many of 256 equally likely bytes drop their unit."""

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values`` in evaluation mode; masked and scaled in training mode."""
        if not self.training:
            return values
        num_units = values.numel()
        words = torch.empty((num_units + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[:num_units].view(values.shape) >= self.level
        return values * (kept.to(values) * (256 / (256 - self.level)))

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"p={self.p:g}"


@contextmanager
def scaled_dropout(model: nn.Module, factor: float) -> Iterator[None]:
    """Multiply the probability of every :class:`Dropout` of a model inside the block."""
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    for layer in layers:
        layer.level = round(256 * layer.p * factor)
    try:
        yield
    finally:
        for layer in layers:
            layer.level = round(256 * layer.p)
