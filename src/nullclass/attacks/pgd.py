"""Null-aware PGD: projected gradient steps on a margin that counts null as a defence.

    x <- project(x + step * steepest(d margin / dx))

(Madry et al. 2018, with the margins of :mod:`nullclass.attacks.objectives`.) An image leaves
the batch the moment its objective is reached, so easy images cost a few steps only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nullclass.attacks.base import frozen
from nullclass.attacks.geometry import Eps, check_eps, find_norm, project, wide
from nullclass.attacks.objectives import (
    Form,
    ObjectiveName,
    find_objective,
    is_success,
    ranked_targets,
    target_margin,
)
from nullclass.devices import supports_bfloat16
from nullclass.errors import UserError
from nullclass.models.classifier import Classifier

Precision = Literal["float32", "bfloat16"]

Margin = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(N, …)`` and the indices ``(N,)`` of their images to what is climbed, ``(N,)``."""


@dataclass(frozen=True)
class PGD:
    """Untargeted PGD on the objective's margin."""

    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    form: Form = "smooth"
    """``smooth`` climbs the logsumexp margin, ``hard`` the max margin."""
    num_steps: int = 40
    """Gradient steps a restart."""
    num_restarts: int = 1
    """Independent starts; the first is the clean image, the others are random in the ball."""
    relative_step: float | None = None
    """Step as a share of eps; ``None`` is 2.5 / num_steps (Madry et al. 2018)."""
    precision: Precision = "float32"
    """``bfloat16`` takes the gradients under autocast, about twice as fast where the machine has
    it natively; every success is still confirmed in float32 (comparison: LOG.md)."""
    is_search: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        _check_steps(self.num_steps, self.num_restarts, self.relative_step)
        _check_precision(self.precision)
        find_objective(self.objective)
        if self.form not in ("hard", "smooth"):
            raise UserError(f"there is no form {self.form!r} of the margin: choose hard or smooth")

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
        """See :class:`nullclass.attacks.base.Attack`."""
        check_eps(eps, norm, images.shape)
        climber = _Climber(model, images, labels, eps, norm, self.objective, self.precision)
        margin = find_objective(self.objective).margin

        def climbed(logits: Tensor, indices: Tensor) -> Tensor:
            return margin(logits, labels[indices], model.num_classes, self.form)

        with frozen(model):
            for restart in range(self.num_restarts):
                climber.climb(
                    climbed,
                    self.num_steps,
                    self.relative_step,
                    is_random=restart > 0,
                    generator=generator,
                )
        return climber.attacked


@dataclass(frozen=True)
class TargetedPGD:
    """PGD aimed at every wrong real class in turn, the nearest first, never at null.

    What it climbs is the target's log-odds; what counts is that the image is fooled,
    into whichever real class.
    """

    num_steps: int = 40
    """Gradient steps a target and restart."""
    num_targets: int | None = None
    """How many of the nearest wrong classes are tried; ``None`` is all of them."""
    num_restarts: int = 1
    """Independent starts; the first is the clean image, the others are random in the ball."""
    relative_step: float | None = None
    """Step as a share of eps; ``None`` is 2.5 / num_steps."""
    precision: Precision = "float32"
    """As for :class:`PGD`."""
    objective: ClassVar[ObjectiveName] = "fool"
    is_search: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        _check_steps(self.num_steps, self.num_restarts, self.relative_step)
        _check_precision(self.precision)
        if self.num_targets is not None and self.num_targets < 1:
            raise UserError(f"num_targets must be at least 1, not {self.num_targets}")

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
        """See :class:`nullclass.attacks.base.Attack`."""
        check_eps(eps, norm, images.shape)
        climber = _Climber(model, images, labels, eps, norm, self.objective, self.precision)
        with frozen(model):
            targets = ranked_targets(logits_of(model, images), labels, model.num_classes)
            for restart in range(self.num_restarts):
                for target in targets[:, : self.num_targets].unbind(dim=1):
                    climber.climb(
                        _towards(target),
                        self.num_steps,
                        self.relative_step,
                        is_random=restart > 0,
                        generator=generator,
                    )
        return climber.attacked


def _towards(targets: Tensor) -> Margin:
    return lambda logits, indices: target_margin(logits, targets[indices])


BATCH_SIZE = 64
"""Images a gradient step is taken on at once: small enough for the caches (LOG.md)."""


@torch.no_grad()
def logits_of(model: Classifier, images: Tensor) -> Tensor:
    """Logits of any number of images, a small batch at a time."""
    return torch.cat([model(chunk) for chunk in images.split(BATCH_SIZE)])


class _Climber:
    """Images under attack: those that stand are climbed, those that fell are left alone."""

    def __init__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        eps: Eps,
        norm: str,
        objective: ObjectiveName,
        precision: Precision,
    ) -> None:
        self.model = model
        self.images = images.detach()
        self.labels = labels
        self.eps = eps
        self.norm = find_norm(norm)
        self.objective = find_objective(objective)
        self.is_reduced = precision == "bfloat16" and supports_bfloat16(images.device)
        self.attacked = self.images.clone()
        self.is_standing = torch.ones(len(images), dtype=torch.bool, device=images.device)
        self.best = torch.full((len(images),), -torch.inf, device=images.device)

    def climb(
        self,
        margin: Margin,
        num_steps: int,
        relative_step: float | None,
        *,
        is_random: bool,
        generator: torch.Generator | None,
    ) -> None:
        """Climb ``margin`` from one start with every image that still stands."""
        if not bool(self.is_standing.any()):  # splitting nothing would give one empty batch
            return
        relative_step = 2.5 / num_steps if relative_step is None else relative_step
        for indices in self.is_standing.nonzero().squeeze(1).split(BATCH_SIZE):
            clean = self.images[indices]
            start = clean
            if is_random:
                eps = self._eps_of(indices)
                noise = self.norm.random(clean, eps, generator)
                start = project(clean + noise, clean, eps, self.norm)
            self._climb_batch(indices, clean, start, margin, num_steps, relative_step)

    def _eps_of(self, indices: Tensor) -> Eps:
        return self.eps[indices] if isinstance(self.eps, Tensor) else self.eps

    def _climb_batch(
        self,
        indices: Tensor,
        clean: Tensor,
        attacked: Tensor,
        margin: Margin,
        num_steps: int,
        relative_step: float,
    ) -> None:
        eps = self._eps_of(indices)
        device = attacked.device.type
        for done in range(num_steps + 1):
            attacked = attacked.detach().requires_grad_()
            # The last look at an image is always exact.
            is_reduced = self.is_reduced and done < num_steps
            with torch.autocast(device, torch.bfloat16, enabled=is_reduced):
                logits = self.model(attacked).float()
            climbed = margin(logits, indices)
            is_fallen = self._record(
                indices, attacked.detach(), logits.detach(), climbed.detach(), is_reduced
            )
            if done == num_steps or bool(is_fallen.all()):
                return
            (gradient,) = torch.autograd.grad(climbed.sum(), attacked)
            attacked = attacked.detach()
            if bool(is_fallen.any()):
                stands = ~is_fallen
                indices, clean = indices[stands], clean[stands]
                eps = self._eps_of(indices)
                attacked, gradient = attacked[stands], gradient[stands]
            step = relative_step * wide(eps, attacked)
            ahead = attacked + step * self.norm.steepest(gradient)
            attacked = project(ahead, clean, eps, self.norm)

    def _record(
        self,
        indices: Tensor,
        attacked: Tensor,
        logits: Tensor,
        climbed: Tensor,
        is_reduced: bool,
    ) -> Tensor:
        """Keep successes and the best tries; returns which of the batch fell."""
        num_classes = self.model.num_classes
        is_fallen = is_success(logits, self.labels[indices], num_classes, self.objective)
        if is_reduced and bool(is_fallen.any()):
            apparent = is_fallen.nonzero().squeeze(1)
            with torch.no_grad():
                exact = self.model(attacked[apparent])
            is_fallen[apparent] = is_success(
                exact, self.labels[indices[apparent]], num_classes, self.objective
            )
        is_kept = is_fallen | (climbed > self.best[indices])
        self.attacked[indices[is_kept]] = attacked[is_kept]
        self.best[indices[is_kept]] = climbed[is_kept]
        self.is_standing[indices[is_fallen]] = False
        return is_fallen


def _check_precision(precision: str) -> None:
    if precision not in ("float32", "bfloat16"):
        raise UserError(f"there is no precision {precision!r}: choose float32 or bfloat16")


def _check_steps(num_steps: int, num_restarts: int, relative_step: float | None) -> None:
    if num_steps < 1 or num_restarts < 1:
        raise UserError(
            f"an attack needs at least one step and one restart, not {num_steps} and {num_restarts}"
        )
    if relative_step is not None and not 0 < relative_step <= 2:
        raise UserError(f"the relative step must be in (0, 2], not {relative_step}")
