"""The interface of a source of null images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class NullImages:
    """Null images made from a batch."""

    images: Tensor
    """``(N, C, H, W)`` in [0,1]."""
    null_probs: Tensor | None = None
    """``(N,)`` in [0,1]: the probability of null in each target; the rest stays on the true label
    (p_NULL in Hosseini et al. 2017). ``None`` means 1 for all."""


class NullSource(Protocol):
    """Makes null images from a batch of labelled images.

    The same generator state gives the same images, and the inputs are not changed. The constructor
    takes what a source needs besides the batch (a model, other images). Subclass this to inherit
    the defaults below; a dataclass then needs only ``__call__``.
    """

    needs_image_gradient: bool = False
    """Whether the source reads ``images.grad``, the gradient of the training loss. The training
    loop then computes it in the backward pass of the step."""
    is_soft: bool = False
    """Whether targets keep some probability on the true label."""

    def settings(self) -> dict[str, Any]:
        """All settings as JSON values: here, the fields of a dataclass except ``model``."""
        names = getattr(self, "__dataclass_fields__", {}).keys() - {"model"}
        return {name: getattr(self, name) for name in sorted(names)}

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Return null images for images ``(N, C, H, W)`` in [0,1] with labels ``(N,)``."""
        ...
