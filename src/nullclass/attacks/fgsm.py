"""FGSM: one step along the gradient's sign (Goodfellow et al. 2015, equation in section 4).

    x' = clamp(x + eps * steepest(dCE/dx), 0, 1)

The notebook's attack, made on the model under test against plain cross-entropy. It knows
nothing of null: it only walks away from the true label. Where cross-entropy saturates its
gradient is exactly zero and the image stays as it is, as in the notebook.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import frozen
from nullclass.attacks.geometry import Eps, along, check_eps, find_norm
from nullclass.attacks.objectives import ObjectiveName
from nullclass.losses import cross_entropy
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class FGSM:
    """One cross-entropy step from the clean image; it has no settings."""

    objective: ClassVar[ObjectiveName] = "evade"
    is_search: ClassVar[bool] = False

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """See :class:`nullclass.attacks.base.Attack`; deterministic."""
        check_eps(eps, norm, images.shape)
        images = images.detach()
        return along(self.direction(model, images, labels, norm=norm), images, eps, norm)

    def direction(self, model: Classifier, images: Tensor, labels: Tensor, *, norm: str) -> Tensor:
        """See :class:`nullclass.attacks.base.Ray`."""
        with frozen(model):
            start = images.detach().clone().requires_grad_()
            loss = cross_entropy(model(start), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, start)
        return find_norm(norm).steepest(gradient)
