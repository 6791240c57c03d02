"""Random perturbations of a given size, which need no model.

``linf``: every pixel up or down by the size. ``l2``: that far in a uniformly random direction.
``l0``: random pixels, each channel set to a uniformly random value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nullclass.core.norms import find_ball, step_along, top_pixels
from nullclass.models.classifier import Classifier
from nullclass.nulls.perturb.base import check_asked


@dataclass(frozen=True)
class NoisePerturbation:
    """Noise as large as it may be, before it is cut to [0,1]."""

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l0")
    needs_gradient: ClassVar[bool] = False

    def settings(self) -> dict[str, Any]:
        """None."""
        return {}

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        sizes: Tensor,
        norm: str,
        generator: torch.Generator | None = None,
        *,
        gradient: Tensor | None = None,
    ) -> Tensor:
        """See :class:`nullclass.nulls.perturb.base.Perturbation`."""
        check_asked(self, images, sizes, norm)
        images = images.detach()
        shape = images.shape
        if norm == "l0":
            # One draw a channel for the value, and one a pixel for whether it is among the first.
            values = torch.rand(shape, generator=generator, dtype=images.dtype).to(images.device)
            turns = torch.rand((shape[0], *shape[2:]), generator=generator).to(images.device)
            return torch.where(top_pixels(turns, sizes), values, images)
        drawn = torch.randn(shape, generator=generator, dtype=images.dtype).to(images.device)
        return step_along(find_ball(norm).steepest(drawn, images), images, sizes, norm)
