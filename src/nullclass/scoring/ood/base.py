"""The interface of a source of images of no class."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nullclass.data import LabelledImages


class OODSource(Protocol):
    """Makes images that belong to no class, in the shape of the test images.

    The same generator state gives the same images; the data are not modified.
    """

    def __call__(self, data: LabelledImages, num_images: int, generator: torch.Generator) -> Tensor:
        """Images ``(num_images, C, H, W)`` float32 in [0,1], on the device of the data.

        Raises:
            UserError: If the source has no images of that shape, or too few.
        """
        ...
