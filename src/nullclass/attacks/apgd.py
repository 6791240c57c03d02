"""Auto-PGD: momentum, and a step size that halves where the loss no longer increases.

    z       <- project(x_k + eta * step(grad))
    x_{k+1} <- project(x_k + alpha (z - x_k) + (1 - alpha) (x_k - x_{k-1}))

At a checkpoint an image's step is halved and it returns to its best point if fewer than rho of
the last steps increased the loss, or if neither step nor best loss changed since the checkpoint
before. (Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", algorithm 1.)

Differences: null counts as a defence, an image leaves the batch as soon as it succeeds, the first
start is the clean image, and a checkpoint counts the steps up to it and not one further. In L1 the
schedule is the same and each step follows the gradient, projected onto ball and box together;
Croce & Hein 2021 ("Mind the box") move only the pixels of the largest gradients, adapt their number
and the step to it, and start in balls of radius three and two eps.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from nullclass.attacks.base import RestartedAttack
from nullclass.attacks.losses import LossName, ObjectiveName
from nullclass.attacks.state import AttackState, IndexedLoss, Precision
from nullclass.attacks.steps import ascend, has_direction

ALPHA = 0.75
"""Weight of the projected step against the previous one (alpha in the paper)."""
RHO = 0.75
"""Share of the steps between checkpoints that must increase the loss (rho in the paper)."""


@dataclass(frozen=True)
class APGD(RestartedAttack):
    """Auto-PGD on the objective's loss.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    objective: ObjectiveName = "fool"
    loss: LossName = "logsumexp-margin"
    num_steps: int = 100
    """N_iter in the paper."""
    num_restarts: int = 1
    precision: Precision = "float32"

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return the objective's loss."""
        return [state.loss(self.loss)]

    def climb(self, state: AttackState, indices: Tensor, start: Tensor, loss: IndexedLoss) -> None:
        """See :class:`nullclass.attacks.base.RestartedAttack`."""
        _run_steps(state, indices, start, loss, self.num_steps)


@dataclass(frozen=True)
class MultiTargetedAPGD(APGD):
    """Auto-PGD towards every winning answer in turn, largest clean logit first.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    loss: LossName = "dlr"
    """The paper's loss, which does not depend on the scale of the logits."""
    num_targets: int | None = None

    def losses(self, state: AttackState) -> list[IndexedLoss]:
        """Return one loss per rank of target."""
        return state.target_losses(self.num_targets, self.loss)


def checkpoints(num_steps: int) -> list[int]:
    """Return the steps after which the step size is checked: w_1, w_2, … of the paper.

    w_j = ceil(p_j N_iter), p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).
    """
    before, percent, steps = 0, 22, set()
    while percent <= 100:
        steps.add(-(-percent * num_steps // 100))
        before, percent = percent, percent + max(percent - before - 3, 6)
    return sorted(steps)


@dataclass
class _Iterate:
    """The variables of algorithm 1 for the images of one batch; every field is ``(N, …)``."""

    indices: Tensor
    x: Tensor
    x_before: Tensor
    f: Tensor
    gradient: Tensor
    x_max: Tensor
    f_max: Tensor
    gradient_max: Tensor
    eta: Tensor
    num_increases: Tensor
    """Steps since the last checkpoint that increased the loss."""
    f_checked: Tensor
    """``f_max`` at the last checkpoint."""
    was_halved: Tensor
    """Whether the step was halved at the last checkpoint."""

    def keep(self, is_kept: Tensor) -> None:
        """Drop the other images."""
        if not bool(is_kept.all()):
            for field in fields(self):
                setattr(self, field.name, getattr(self, field.name)[is_kept])


def _run_steps(
    state: AttackState, indices: Tensor, start: Tensor, loss: IndexedLoss, num_steps: int
) -> None:
    f, gradient, succeeded = state.forward_backward(indices, start, loss)
    eps = torch.as_tensor(state.eps_at(indices), dtype=start.dtype, device=start.device)
    it = _Iterate(
        indices=indices,
        x=start,
        x_before=start,
        f=f,
        gradient=gradient,
        x_max=start,
        f_max=f,
        gradient_max=gradient,
        eta=2 * eps.expand(len(indices)),
        num_increases=torch.zeros_like(indices),
        f_checked=f,
        was_halved=torch.zeros_like(succeeded),
    )
    it.keep(~succeeded & has_direction(gradient))  # without a gradient an image cannot move
    last_checkpoint, checked = 0, checkpoints(num_steps)
    for k in range(1, num_steps + 1):
        if not len(it.indices):
            return
        x_next = _next_point(state, it, ALPHA if k > 1 else 1.0)
        it.x_before, it.x = it.x, x_next
        if k == num_steps:
            state.evaluate(it.indices, it.x)
            return
        f, it.gradient, succeeded = state.forward_backward(it.indices, it.x, loss)
        it.num_increases = it.num_increases + (f > it.f)
        it.f = f
        it.keep(~succeeded)
        is_better = it.f > it.f_max
        it.x_max = _where(is_better, it.x, it.x_max)
        it.gradient_max = _where(is_better, it.gradient, it.gradient_max)
        it.f_max = torch.where(is_better, it.f, it.f_max)
        if k in checked:
            _halve_steps(it, k - last_checkpoint)
            last_checkpoint = k


def _next_point(state: AttackState, it: _Iterate, alpha: float) -> Tensor:
    images, eps = state.images[it.indices], state.eps_at(it.indices)
    z = ascend(it.x, it.gradient, images, eps=eps, step_size=it.eta, norm=state.norm)
    if alpha == 1:
        return z
    x_next = it.x + alpha * (z - it.x) + (1 - alpha) * (it.x - it.x_before)
    return state.norm.project(x_next, images, eps)


def _halve_steps(it: _Iterate, num_steps: int) -> None:
    """Halve the step and return to the best point where condition 1 or 2 of the paper holds."""
    is_slow = it.num_increases < RHO * num_steps
    is_stuck = ~it.was_halved & (it.f_max <= it.f_checked)
    is_halved = is_slow | is_stuck
    it.eta = torch.where(is_halved, it.eta / 2, it.eta)
    it.x = _where(is_halved, it.x_max, it.x)
    it.gradient = _where(is_halved, it.gradient_max, it.gradient)
    it.f = torch.where(is_halved, it.f_max, it.f)
    it.was_halved, it.f_checked = is_halved, it.f_max
    it.num_increases = torch.zeros_like(it.num_increases)


def _where(condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(condition.view(-1, 1, 1, 1), chosen, other)
