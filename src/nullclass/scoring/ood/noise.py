"""Independent uniform pixels, the usual first test of rejection (Hendrycks & Gimpel 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.data import LabelledImages


def noise_images(data: LabelledImages, num_images: int, generator: torch.Generator) -> Tensor:
    """Return images with pixels from U[0, 1); see :class:`nullclass.scoring.ood.OODSource`."""
    shape = (num_images, *data.images.shape[1:])
    noise = torch.rand(shape, generator=generator, device=generator.device)
    return noise.to(data.images.device)
