"""PGD: projected gradient steps on a loss that counts null as a defence.

    g <- momentum * g + grad / |grad|_1          x <- project(x + relative_step * eps * step(g))

Madry et al. 2018 (projected steps), Dong et al. 2018 (momentum mu, eq. 6), Gowal et al. 2019, "An
alternative surrogate loss for PGD-based adversarial testing" (one target after another). An image
leaves the batch as soon as it succeeds, so easy images cost a few steps only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nullclass.attacks.base import RestartedAttack
from nullclass.attacks.losses import LossName, ObjectiveName
from nullclass.attacks.state import AttackState, IndexedLoss, Precision, check_targets
from nullclass.attacks.steps import add_momentum, ascend, has_direction
from nullclass.core.norms import along_gradient


class PGDSteps(RestartedAttack):
    """The steps; subclasses choose the losses, and may change the gradients."""

    num_steps: int
    relative_step: float | None
    momentum: float = 0.0
    along_gradient: bool = False
    """Whether to step along the gradient itself, not where the norm allows the steepest ascent."""

    def adjust(
        self, state: AttackState, indices: Tensor, adv_images: Tensor, gradient: Tensor
    ) -> Tensor:
        """Return the gradients to follow: by default, those of the loss."""
        return gradient

    def step_sizes(self) -> list[float]:
        """Return the sizes of the steps as shares of eps."""
        return [self.relative_step or 2.5 / self.num_steps] * self.num_steps

    def climb(self, state: AttackState, indices: Tensor, start: Tensor, loss: IndexedLoss) -> None:
        """See :class:`nullclass.attacks.base.RestartedAttack`."""
        adv_images, past = start, torch.zeros_like(start)
        norm = along_gradient(state.norm) if self.along_gradient else state.norm
        for share in self.step_sizes():
            _, gradient, succeeded = state.forward_backward(indices, adv_images, loss)
            if self.momentum:
                gradient = add_momentum(past, gradient, self.momentum)
            going = ~succeeded & has_direction(gradient)  # without a gradient an image cannot move
            if not bool(going.all()):
                indices, adv_images, gradient = indices[going], adv_images[going], gradient[going]
                if not len(indices):
                    return
            past = gradient = self.adjust(state, indices, adv_images, gradient)
            eps = state.eps_at(indices)
            adv_images = ascend(
                adv_images,
                gradient,
                state.images[indices],
                eps=eps,
                step_size=share * eps,
                norm=norm,
            )
        state.evaluate(indices, adv_images)


@dataclass(frozen=True)
class _PGDSettings(PGDSteps):
    """Settings of both forms of PGD; see :class:`nullclass.attacks.base.BaseAttack`."""

    objective: ObjectiveName = "fool"
    loss: LossName = "logsumexp-margin"
    num_steps: int = 40
    num_restarts: int = 1
    relative_step: float | None = None
    momentum: float = 0.0
    precision: Precision = "float32"


@dataclass(frozen=True)
class PGD(_PGDSettings):
    """PGD on the objective's loss, or towards chosen targets.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    targets: int | Tensor | None = field(default=None, repr=False, compare=False)
    """One class for all images, or ``(N,)`` with one per image; -1 for null. Only the target then
    counts as success while the attack runs. Images whose label is the target are left alone."""

    def prepare(self, state: AttackState) -> None:
        """Set the targets; see :class:`nullclass.attacks.base.BaseAttack`."""
        if self.targets is not None:
            state.targets = check_targets(self.targets, state.labels, state.model)
            state.active &= state.targets != state.labels

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return the objective's loss, or the loss towards the targets."""
        return [state.loss(self.loss)]


@dataclass(frozen=True)
class MultiTargetedPGD(_PGDSettings):
    """PGD towards every winning answer in turn, largest clean logit first.

    With the objective ``fool`` the targets are the wrong real classes, never null. Any success of
    the objective counts, whichever answer it is. Settings: see
    :class:`nullclass.attacks.base.BaseAttack`.
    """

    num_targets: int | None = None
    num_skipped: int = field(default=0, metadata={"minimum": 0})
    """Nearest answers to leave out, which an earlier member of an ensemble has had as targets."""

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return one loss per rank of target."""
        num_ranks = self.num_targets and self.num_skipped + self.num_targets
        return state.target_losses(num_ranks, self.loss)[self.num_skipped :]
