"""Auto-PGD: momentum, and a step that halves itself where a climb no longer pays.

    z       <- project(x_k + eta * step(grad))
    x_{k+1} <- project(x_k + alpha (z - x_k) + (1 - alpha) (x_k - x_{k-1}))

At checkpoints each image's step is halved, and it goes on from its best point, if fewer than
rho of its last steps climbed, or if neither step nor best margin has changed since the checkpoint
before. (Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", algorithm 1.)

What differs: the margins count null as a defence, an image leaves the batch the moment it fell, the
first start is the clean image, and a checkpoint looks at the steps up to it and not one further.
For L1 the schedule is the same and each step goes along the gradient itself, projected
onto ball and box together; Croce & Hein 2021 ("Mind the box") also project so, but move the pixels
of the largest gradients only, adapt their number and the step to it, and begin in balls of three
and two times eps.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.losses import Form, ObjectiveName, check_form, find_objective
from nullclass.attacks.multi_targeted_pgd import check_num_targets, target_margins
from nullclass.attacks.state import AttackState, Margin, Precision, check_counts, check_precision
from nullclass.core.norms import Eps, check_eps, expand_eps
from nullclass.models.classifier import Classifier

ALPHA = 0.75
"""Share of the projected step; the rest goes on as before (alpha in the paper)."""
RHO = 0.75
"""Share of the steps between two checkpoints that has to climb (rho in the paper)."""


@dataclass(frozen=True)
class APGD:
    """Untargeted Auto-PGD on the objective's margin."""

    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    form: Form = "smooth"
    """``smooth`` climbs the logsumexp margin, ``hard`` the max margin, ``dlr`` its ratio."""
    num_steps: int = 100
    """Gradient steps a restart (N_iter in the paper)."""
    num_restarts: int = 1
    """Independent starts; the first is the clean image, the others are random in the ball."""
    precision: Precision = "float32"
    """As for :class:`nullclass.attacks.pgd.PGD`."""
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "white-box"

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        check_counts(self.num_steps, self.num_restarts)
        check_precision(self.precision)
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
        """See :class:`nullclass.attacks.base.Attack`."""
        eps = check_eps(eps, norm, images.shape)
        standing = AttackState(
            model,
            images,
            labels,
            eps,
            norm,
            self.objective,
            precision=self.precision,
            batch_size=batch_size,
        )

        with frozen(model):
            standing.climb(
                [standing.margin(self.form)],
                self.num_restarts,
                generator,
                partial(auto_climb, standing, num_steps=self.num_steps),
            )
        return standing.adv_images


@dataclass(frozen=True)
class MultiTargetedAPGD:
    """Auto-PGD towards one winning answer after another, the nearest first."""

    objective: ObjectiveName = "fool"
    """What the attacker wants; what counts is this, however it is reached."""
    form: Form = "dlr"
    """Of the target's margin; ``dlr`` is the paper's, which does not see the logits' scale."""
    num_steps: int = 100
    """Gradient steps a target and restart."""
    num_targets: int | None = None
    """How many of the nearest answers are tried; ``None`` is all of them."""
    num_restarts: int = 1
    """Independent starts; the first is the clean image, the others are random in the ball."""
    precision: Precision = "float32"
    """As for :class:`nullclass.attacks.pgd.PGD`."""
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "white-box"

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        check_counts(self.num_steps, self.num_restarts)
        check_precision(self.precision)
        find_objective(self.objective)
        check_form(self.form)
        check_num_targets(self.num_targets)

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
        """See :class:`nullclass.attacks.base.Attack`."""
        eps = check_eps(eps, norm, images.shape)
        standing = AttackState(
            model,
            images,
            labels,
            eps,
            norm,
            self.objective,
            precision=self.precision,
            batch_size=batch_size,
        )
        with frozen(model):
            margins = target_margins(standing, self.num_targets, self.form)
            standing.climb(
                margins,
                self.num_restarts,
                generator,
                partial(auto_climb, standing, num_steps=self.num_steps),
            )
        return standing.adv_images


def checkpoints(num_steps: int) -> list[int]:
    """Steps after which the step size is looked at: w_1, w_2, … of the paper.

    w_j is p_j N_iter, rounded up, with p_0 = 0, p_1 = 0.22 and
    p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06); here in whole per cents.
    """
    before, percent, found = 0, 22, set()
    while percent <= 100:
        found.add(-(-percent * num_steps // 100))
        before, percent = percent, percent + max(percent - before - 3, 6)
    return sorted(found)


@dataclass
class _Walk:
    """Where the images of one climb are; every field is ``(N, …)``, in the same order."""

    indices: Tensor
    at: Tensor
    """x_k."""
    before: Tensor
    """x_{k-1}."""
    margin: Tensor
    """At x_k."""
    gradient: Tensor
    """At x_k."""
    best: Tensor
    """x_max."""
    best_margin: Tensor
    """f_max."""
    best_gradient: Tensor
    step: Tensor
    """eta."""
    num_rises: Tensor
    """Steps since the last checkpoint that climbed."""
    checked_margin: Tensor
    """f_max at the last checkpoint."""
    was_halved: Tensor
    """Whether the step was halved at the last checkpoint."""

    def of(self, is_kept: Tensor) -> _Walk:
        """The walk of some of the images."""
        if bool(is_kept.all()):
            return self
        return _Walk(*(getattr(self, field.name)[is_kept] for field in fields(self)))


def auto_climb(
    standing: AttackState, indices: Tensor, start: Tensor, margin: Margin, num_steps: int
) -> None:
    """Climb one batch from ``start``; what comes of it is kept in ``standing``.

    An image without a gradient at its start has no way to go, so it is climbed no further.
    """
    first, gradient, succeeded = standing.look(indices, start, margin)
    eps = torch.as_tensor(standing.eps_of(indices), dtype=start.dtype, device=start.device)
    walk = _Walk(
        indices=indices,
        at=start,
        before=start,
        margin=first,
        gradient=gradient,
        best=start,
        best_margin=first,
        best_gradient=gradient,
        step=2 * eps.expand(len(indices)),
        num_rises=torch.zeros_like(indices),
        checked_margin=first,
        was_halved=torch.zeros_like(succeeded),
    ).of(~succeeded & (gradient != 0).flatten(1).any(dim=1))
    since, checked_at = 0, checkpoints(num_steps)
    for done in range(1, num_steps + 1):
        if not len(walk.indices):
            return
        ahead = _ahead(standing, walk, ALPHA if done > 1 else 1.0)
        walk.before, walk.at = walk.at, ahead
        reached, walk.gradient, succeeded = standing.look(
            walk.indices, walk.at, margin, is_last=done == num_steps
        )
        walk.num_rises = walk.num_rises + (reached > walk.margin)
        walk.margin = reached
        walk = walk.of(~succeeded)
        is_better = walk.margin > walk.best_margin
        walk.best = _where(is_better, walk.at, walk.best)
        walk.best_gradient = _where(is_better, walk.gradient, walk.best_gradient)
        walk.best_margin = torch.where(is_better, walk.margin, walk.best_margin)
        if done in checked_at:
            _check(walk, done - since)
            since = done


def _ahead(standing: AttackState, walk: _Walk, alpha: float) -> Tensor:
    clean, eps = standing.images[walk.indices], standing.eps_of(walk.indices)
    norm = standing.norm
    stepped = walk.at + expand_eps(walk.step, walk.at) * norm.step(walk.gradient, walk.at)
    projected = norm.project(stepped, clean, eps)
    if alpha == 1:
        return projected
    ahead = walk.at + alpha * (projected - walk.at) + (1 - alpha) * (walk.at - walk.before)
    return norm.project(ahead, clean, eps)


def _check(walk: _Walk, num_since: int) -> None:
    """The two conditions of a checkpoint, and what follows from them."""
    is_slow = walk.num_rises < RHO * num_since
    is_stuck = ~walk.was_halved & (walk.best_margin <= walk.checked_margin)
    is_halved = is_slow | is_stuck
    walk.step = torch.where(is_halved, walk.step / 2, walk.step)
    walk.at = _where(is_halved, walk.best, walk.at)
    walk.gradient = _where(is_halved, walk.best_gradient, walk.gradient)
    walk.margin = torch.where(is_halved, walk.best_margin, walk.margin)
    walk.was_halved, walk.checked_margin = is_halved, walk.best_margin
    walk.num_rises = torch.zeros_like(walk.num_rises)


def _where(condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(condition.view(-1, *[1] * (chosen.ndim - 1)), chosen, other)
