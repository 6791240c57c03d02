"""Uniform noise labelled null (Roos 2020, null samples "u")."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.nulls.base import NullImages, NullSource


class UniformNulls(NullSource):
    """Null images whose pixels are independent draws from U[0, 1]."""

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Return noise shaped like the batch (:class:`nullclass.nulls.base.NullSource`)."""
        noise = torch.rand(images.shape, generator=generator, dtype=images.dtype)
        return NullImages(noise.to(images.device))
