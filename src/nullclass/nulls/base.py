"""What a source of null images is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class NullImages:
    """What a source made of a batch."""

    images: Tensor
    """``(N, C, H, W)`` in [0,1]."""
    shares: Tensor | None = None
    """``(N,)`` in [0,1]: how much of each target is null, the rest staying on the true label
    (p_NULL in Hosseini et al. 2017); ``None``: all of it."""


class NullSource(Protocol):
    """Makes images that belong to no class, or to theirs only in part, out of a batch that does.

    The same generator state gives the same images; the inputs are left untouched.
    What a source needs beyond the batch (a model, other images) goes in its constructor.
    """

    needs_image_gradient: bool
    """Whether the source reads ``images.grad``, the gradient of the training loss. The
    training loop then asks for it in the backward pass it makes anyway."""
    is_soft: bool
    """Whether it leaves a share of a target on the true label."""

    def settings(self) -> dict[str, Any]:
        """Everything that decides the images, besides the batch, as JSON values."""
        ...

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Null images from images ``(N, C, H, W)`` in [0,1] and their labels ``(N,)``."""
        ...
