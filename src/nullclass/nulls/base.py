"""What a source of null images is."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class NullSource(Protocol):
    """Makes images that belong to no class out of a batch that does.

    The same generator state gives the same images; the inputs are left untouched.
    What a source needs beyond the batch (a model, other images) goes in its constructor.
    """

    needs_image_gradient: bool
    """Whether the source reads ``images.grad``, the gradient of the training loss. The
    training loop then asks for it in the backward pass it makes anyway."""

    def settings(self) -> dict[str, Any]:
        """Everything that decides the images, besides the batch, as JSON values."""
        ...

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Null images ``(N, C, H, W)`` in [0,1] from images of that shape and their labels."""
        ...
