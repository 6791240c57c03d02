"""MI-FGSM: momentum steps that continue after a success, for images that are to transfer.

    g <- mu * g + grad / |grad|_1          x <- project(x + relative_step * eps * step(g))

Dong et al. 2018 (equations 6 and 7), on the objective's loss, so that a source with null is not
pushed into null. An image just across the source's decision boundary seldom crosses another
model's; here every image takes all steps, and the last one is returned. The paper's relative step
is 1 / num_steps; the default, 2.5 times that, transfers more (LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nullclass.attacks.base import BaseAttack
from nullclass.attacks.losses import LossName, ObjectiveName
from nullclass.attacks.state import AttackState
from nullclass.attacks.steps import add_momentum, ascend, input_gradient
from nullclass.core.outcomes import check_finite


@dataclass(frozen=True)
class MIFGSM(BaseAttack):
    """Momentum iterative FGSM; deterministic.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    objective: ObjectiveName = "fool"
    loss: LossName = "logsumexp-margin"
    num_steps: int = 10
    relative_step: float | None = None
    momentum: float = 1.0
    is_iterative: ClassVar[bool] = False

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        relative_step = self.relative_step or 2.5 / self.num_steps
        for indices in state.batches():
            images, eps = state.images[indices], state.eps_at(indices)
            adv_images, past = images, torch.zeros_like(images)
            loss = state.loss_at(self.loss, indices)
            for _ in range(self.num_steps):
                gradient, losses = input_gradient(state.model, adv_images, loss)
                check_finite(losses)
                past = add_momentum(past, gradient, self.momentum)
                adv_images = ascend(
                    adv_images,
                    past,
                    images,
                    eps=eps,
                    step_size=relative_step * eps,
                    norm=state.norm,
                )
            state.adv_images[indices] = adv_images
