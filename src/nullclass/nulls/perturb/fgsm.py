"""One gradient step of a given size (Goodfellow et al. 2015, with a random size in training).

    x' = clamp(x + size * steepest(g), 0, 1),    g = d CE(f(x), y) / dx

The steepest direction is the gradient's sign in ``linf`` and the gradient itself in ``l2``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nullclass.core.norms import find_ball, step_along
from nullclass.models.classifier import Classifier
from nullclass.nulls.perturb.base import check_asked, gradient_of


@dataclass(frozen=True)
class FGSMPerturbation:
    """One step from the clean image; deterministic."""

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    needs_gradient: ClassVar[bool] = True

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
        if gradient is None:
            gradient = gradient_of(model, images, labels)
        return step_along(find_ball(norm).steepest(gradient, images), images, sizes, norm)
