"""FGSM: one step along the gradient's sign (Goodfellow et al. 2015, equation in section 4).

    x' = clamp(x + eps * steepest(grad), 0, 1)

For the objective evade the gradient is plain cross-entropy's, as in the notebook: it knows nothing
of null and only walks away from the true label; where cross-entropy saturates it is exactly zero,
and the image stays as it is. For fool and deny it is that of the smooth margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.losses import ObjectiveName, find_objective
from nullclass.core.losses import cross_entropy
from nullclass.core.norms import Eps, check_eps, find_ball, step_along
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class FGSM:
    """One step from the clean image."""

    objective: ObjectiveName = "untargeted"
    """What the attacker wants; evade is the notebook's attack."""
    is_iterative: ClassVar[bool] = False
    access: ClassVar[Access] = "white-box"

    def __post_init__(self) -> None:
        """Refuse an unknown objective."""
        find_objective(self.objective)

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """See :class:`nullclass.attacks.base.Attack`; deterministic."""
        eps = check_eps(eps, norm, images.shape)
        images = images.detach()
        return step_along(self.direction(model, images, labels, norm=norm), images, eps, norm)

    def direction(self, model: Classifier, images: Tensor, labels: Tensor, *, norm: str) -> Tensor:
        """See :class:`nullclass.attacks.base.LinearAttack`."""
        with frozen(model):
            start = images.detach().clone().requires_grad_()
            logits = model(start)
            if self.objective == "untargeted":
                climbed = cross_entropy(logits, labels, reduction="sum")
            else:
                objective = find_objective(self.objective)
                climbed = objective.margin(logits, labels, model.num_classes, "smooth").sum()
            (gradient,) = torch.autograd.grad(climbed, start)
        return find_ball(norm).steepest(gradient, start.detach())
