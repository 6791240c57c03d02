"""Noise labelled null: every pixel drawn from U[0, 1] (Roos 2020; study-facts section 2, ``u``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nullclass.nulls.base import NullImages


class UniformNulls:
    """Null images of independent uniform pixels; the batch gives only their shape."""

    needs_image_gradient = False
    is_soft = False

    def settings(self) -> dict[str, Any]:
        """None."""
        return {}

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """See :class:`nullclass.nulls.base.NullSource`."""
        drawn = torch.rand(images.shape, generator=generator, dtype=images.dtype)
        return NullImages(drawn.to(images.device))
