"""Random perturbations of a given size, which need no model.

``linf``: every pixel up or down by the size. ``l2``: that far in a uniformly random direction.
``l0``: random pixels, each channel set to a uniformly random value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nullclass.core.norms import find_norm, step_along
from nullclass.models.classifier import Classifier
from nullclass.nulls.perturb.base import check_asked
from nullclass.nulls.perturb.measures import foremost


@dataclass(frozen=True)
class NoisePerturbation:
    """Noise as large as it may be, before it is cut to [0,1]."""

    measures: ClassVar[tuple[str, ...]] = ("linf", "l2", "l0")
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
        measure: str,
        generator: torch.Generator | None = None,
        *,
        gradient: Tensor | None = None,
    ) -> Tensor:
        """See :class:`nullclass.nulls.perturb.base.Perturbation`."""
        check_asked(self, images, sizes, measure)
        images = images.detach()
        shape = images.shape
        if measure == "l0":
            # One draw a channel for the value, and one a pixel for whether it is among the first.
            values = torch.rand(shape, generator=generator, dtype=images.dtype).to(images.device)
            turns = torch.rand((shape[0], *shape[2:]), generator=generator).to(images.device)
            return torch.where(foremost(turns, sizes), values, images)
        drawn = torch.randn(shape, generator=generator, dtype=images.dtype).to(images.device)
        return step_along(find_norm(measure).steepest(drawn, images), images, sizes, measure)
