"""PGD: projected gradient steps on a loss that counts null as a defence.

    g <- momentum * g + grad / |grad|_1          x <- project(x + relative_step * eps * step(g))

Madry et al. 2018 (projected steps), Dong et al. 2018 (momentum mu, eq. 6), Gowal et al. 2019, "An
alternative surrogate loss for PGD-based adversarial testing" (one target after another). An image
leaves the batch as soon as it succeeds, so easy images cost a few steps only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nullclass.attacks.base import BaseAttack
from nullclass.attacks.losses import LossName, ObjectiveName
from nullclass.attacks.state import AttackState, IndexedLoss, Precision, check_targets
from nullclass.attacks.steps import add_momentum, ascend, has_direction


@dataclass(frozen=True)
class _PGDSteps(BaseAttack):
    """The settings that both forms of PGD share."""

    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    loss: LossName = "logsumexp-margin"
    """What the steps maximise (:mod:`nullclass.attacks.losses`)."""
    num_steps: int = 40
    """Gradient steps per restart, and per target."""
    num_restarts: int = 1
    """Independent starts: the clean image, then random points of the ball."""
    relative_step: float | None = None
    """Step size as a share of eps; ``None`` is 2.5 / num_steps (Madry et al. 2018)."""
    momentum: float = 0.0
    """Weight of earlier gradients (mu in Dong et al. 2018)."""
    precision: Precision = "float32"
    """``bfloat16`` computes gradients under autocast, about twice as fast where it is native;
    successes are confirmed in float32 (comparison: LOG.md)."""

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return the losses to maximise, one after another."""
        raise NotImplementedError

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        losses = self.losses(state)
        for indices, start, loss in state.starts(losses, self.num_restarts, generator):
            run_steps(
                state,
                indices,
                start,
                loss,
                num_steps=self.num_steps,
                relative_step=self.relative_step,
                momentum=self.momentum,
            )


def run_steps(
    state: AttackState,
    indices: Tensor,
    adv_images: Tensor,
    loss: IndexedLoss,
    *,
    num_steps: int,
    relative_step: float | None,
    momentum: float = 0.0,
    modify: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> None:
    """Run the steps of one batch and keep the results in the state.

    Args:
        state: The attack's state.
        indices: ``(N,)``, which images they are.
        adv_images: ``(N, C, H, W)``, the starting points.
        loss: What the steps maximise.
        num_steps: Gradient steps.
        relative_step: Step size as a share of eps; 2.5 / num_steps if None.
        momentum: Weight of earlier gradients.
        modify: Indices, images and their gradients to the gradients to follow.
    """
    relative_step = relative_step or 2.5 / num_steps
    past = torch.zeros_like(adv_images)
    for _ in range(num_steps):
        _, gradient, succeeded = state.forward_backward(indices, adv_images, loss)
        if momentum:
            gradient = add_momentum(past, gradient, momentum)
        going = ~succeeded & has_direction(gradient)  # without a gradient an image cannot move
        if not bool(going.all()):
            indices, adv_images, gradient = indices[going], adv_images[going], gradient[going]
            if not len(indices):
                return
        if modify is not None:
            gradient = modify(indices, adv_images, gradient)
        past, images, eps = gradient, state.images[indices], state.eps_at(indices)
        adv_images = ascend(
            adv_images, gradient, images, eps=eps, step_size=relative_step * eps, norm=state.norm
        )
    state.evaluate(indices, adv_images, loss)


@dataclass(frozen=True)
class PGD(_PGDSteps):
    """PGD on the objective's loss, or towards chosen targets."""

    targets: int | Tensor | None = field(default=None, repr=False, compare=False)
    """One class for all images or ``(N,)``, one per image (-1 for null). Only the target then
    counts as success while the attack runs."""

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return the objective's loss, or the loss towards the targets."""
        if self.targets is None:
            return [state.loss(self.loss)]
        num_classes = state.model.num_classes
        state.targets = check_targets(self.targets, state.labels, state.model)
        logits = state.targets.where(state.targets >= 0, num_classes)
        return [state.target_loss(logits, self.loss)]


@dataclass(frozen=True)
class MultiTargetedPGD(_PGDSteps):
    """PGD towards every winning answer in turn, largest clean logit first.

    With the objective ``fool`` the targets are the wrong real classes, never null. Any success of
    the objective counts, whichever answer it is.
    """

    num_targets: int | None = None
    """How many of the answers are targets; ``None`` is all of them."""

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return one loss per rank of target."""
        return state.target_losses(self.num_targets, self.loss)
