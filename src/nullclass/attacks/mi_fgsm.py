"""MI-FGSM: momentum steps that do not stop at a success, for images that are to transfer.

    g <- mu * g + grad / |grad|_1          x <- project(x + share * eps * step(g))

Dong et al. 2018 (equations 6 and 7), on the objective's margin, so that a source with null
is not climbed into null. An image that has only just crossed the source's boundary seldom crosses
another model's; here each goes on to the end of the budget, and what comes out is the last step.
The paper's share is 1 / num_steps; 2.5 times that transfers more (LOG.md), and is what is taken
unless told otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.losses import Form, ObjectiveName, check_form, find_objective
from nullclass.attacks.pgd import check_step
from nullclass.attacks.state import check_counts
from nullclass.core.norms import Eps, check_eps, expand_eps, find_ball
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class MIFGSM:
    """Momentum iterative FGSM."""

    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    form: Form = "smooth"
    """The margin's form (:mod:`nullclass.attacks.losses`)."""
    num_steps: int = 10
    """Gradient steps."""
    relative_step: float | None = None
    """Step as a share of eps; ``None`` is 2.5 / num_steps."""
    momentum: float = 1.0
    """Weight of former gradients (mu)."""
    is_iterative: ClassVar[bool] = False
    access: ClassVar[Access] = "white-box"

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        check_counts(self.num_steps, 1)
        check_step(self.relative_step, self.momentum)
        find_objective(self.objective)
        check_form(self.form)

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
        geometry, objective = find_ball(norm), find_objective(self.objective)
        clean = images.detach()
        adv_images, past = clean.clone(), torch.zeros_like(clean)
        share = 2.5 / self.num_steps if self.relative_step is None else self.relative_step
        length = share * expand_eps(eps, clean)
        with frozen(model):
            for _ in range(self.num_steps):
                start = adv_images.clone().requires_grad_()
                margin = objective.margin(model(start), labels, model.num_classes, self.form)
                (gradient,) = torch.autograd.grad(margin.sum(), start)
                size = gradient.flatten(1).abs().sum(dim=1)
                size = size.clamp(min=torch.finfo(size.dtype).tiny)
                past = self.momentum * past + gradient / size.view(-1, 1, 1, 1)
                adv_images = geometry.project(
                    adv_images + length * geometry.step(past, adv_images), clean, eps
                )
        return adv_images
