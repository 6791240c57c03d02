"""Multi-targeted PGD: aimed at every answer that wins in turn, the nearest first.

For the objective fool these are the wrong real classes, never null: to reach class t its logit must
beat the true *and* the null logit, so a targeted attack is null-aware for free. (Gowal et al. 2019,
"An alternative surrogate loss for PGD-based adversarial testing", here over all classes.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.losses import Form, ObjectiveName, check_form, find_objective
from nullclass.attacks.pgd import check_step, climb
from nullclass.attacks.state import (
    AttackState,
    Margin,
    Precision,
    check_counts,
    check_precision,
    logits_of,
)
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class MultiTargetedPGD:
    """PGD towards one answer after another; what counts is the objective, however it is reached."""

    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    form: Form = "smooth"
    """Of the target's margin, as for :class:`nullclass.attacks.pgd.PGD`."""
    num_steps: int = 40
    """Gradient steps a target and restart."""
    num_targets: int | None = None
    """How many of the nearest answers are tried; ``None`` is all of them."""
    num_restarts: int = 1
    """Independent starts; the first is the clean image, the others are random in the ball."""
    relative_step: float | None = None
    """Step as a share of eps; ``None`` is 2.5 / num_steps."""
    momentum: float = 0.0
    """As for :class:`nullclass.attacks.pgd.PGD`."""
    precision: Precision = "float32"
    """As for :class:`nullclass.attacks.pgd.PGD`."""
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "white-box"

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        check_counts(self.num_steps, self.num_restarts)
        check_step(self.relative_step, self.momentum)
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
        walk = partial(
            climb,
            standing,
            num_steps=self.num_steps,
            relative_step=self.relative_step,
            momentum=self.momentum,
        )
        with frozen(model):
            margins = target_margins(standing, self.num_targets, self.form)
            standing.climb(margins, self.num_restarts, generator, walk)
        return standing.adv_images


def target_margins(standing: AttackState, num_targets: int | None, form: Form) -> list[Margin]:
    """One margin for each rank of target, as the model ranks them on the clean images."""
    model, labels, objective = standing.model, standing.labels, standing.objective
    if not len(labels):
        return []
    ranked = objective.targets(logits_of(model, standing.images), labels, model.num_classes)

    def towards(targets: Tensor) -> Margin:
        return lambda logits, indices: objective.target_margin(
            logits, labels[indices], targets[indices], model.num_classes, form
        )

    return [towards(targets) for targets in ranked[:, :num_targets].unbind(dim=1)]


def check_num_targets(num_targets: int | None) -> None:
    """Refuse an attack without a target.

    Raises:
        UserError: If there is none.
    """
    if num_targets is not None and num_targets < 1:
        raise UserError(f"num_targets must be at least 1, not {num_targets}")
