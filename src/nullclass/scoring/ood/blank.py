"""Uniform grey images, from black to white in equal steps."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.data import LabelledImages


def blank_images(data: LabelledImages, num_images: int, generator: torch.Generator) -> Tensor:
    """Return grey images, without randomness; see :class:`nullclass.scoring.ood.OODSource`."""
    levels = torch.linspace(0, 1, num_images, device=data.images.device)
    return levels.view(-1, 1, 1, 1).repeat(1, *data.images.shape[1:])
