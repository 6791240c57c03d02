"""PGD: projected gradient steps on a margin that counts null as a defence.

    g <- momentum * g + grad / |grad|_1          x <- project(x + share * eps * step(g))

Madry et al. 2018 (projected steps), Dong et al. 2018 (momentum mu, eq. 6), with the margins of
:mod:`nullclass.attacks.losses`. An image leaves the batch the moment its objective is reached,
so easy images cost a few steps only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.losses import Form, ObjectiveName, check_form, find_objective
from nullclass.attacks.state import AttackState, Margin, Precision, check_counts, check_precision
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps, expand_eps
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class PGD:
    """Untargeted PGD on the objective's margin."""

    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    form: Form = "smooth"
    """``smooth`` climbs the logsumexp margin, ``hard`` the max margin, ``dlr`` its ratio."""
    num_steps: int = 40
    """Gradient steps a restart."""
    num_restarts: int = 1
    """Independent starts; the first is the clean image, the others are random in the ball."""
    relative_step: float | None = None
    """Step as a share of eps; ``None`` is 2.5 / num_steps (Madry et al. 2018)."""
    momentum: float = 0.0
    """Weight of former gradients (mu in Dong et al. 2018); 0 is none."""
    precision: Precision = "float32"
    """``bfloat16`` takes the gradients under autocast, about twice as fast where the machine has
    it natively; every success is still confirmed in float32 (comparison: LOG.md)."""
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "white-box"

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        check_counts(self.num_steps, self.num_restarts)
        check_step(self.relative_step, self.momentum)
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
        walk = partial(
            climb,
            standing,
            num_steps=self.num_steps,
            relative_step=self.relative_step,
            momentum=self.momentum,
        )
        with frozen(model):
            standing.climb([standing.margin(self.form)], self.num_restarts, generator, walk)
        return standing.adv_images


def climb(
    standing: AttackState,
    indices: Tensor,
    adv_images: Tensor,
    margin: Margin,
    num_steps: int,
    relative_step: float | None,
    momentum: float,
) -> None:
    """Take one batch's steps; what comes of them is kept in ``standing``.

    An image without a gradient stays where it is, so it is climbed no further.
    """
    relative_step = 2.5 / num_steps if relative_step is None else relative_step
    past = torch.zeros_like(adv_images)
    for done in range(num_steps + 1):
        is_last = done == num_steps
        _, gradient, succeeded = standing.look(indices, adv_images, margin, is_last=is_last)
        if momentum:
            size = gradient.flatten(1).abs().sum(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
            gradient = momentum * past + gradient / size.view(-1, 1, 1, 1)
        goes_on = ~succeeded & (gradient != 0).flatten(1).any(dim=1)
        if is_last or not bool(goes_on.any()):
            return
        if not bool(goes_on.all()):
            indices, adv_images = indices[goes_on], adv_images[goes_on]
            gradient = gradient[goes_on]
        past = gradient
        clean, eps = standing.images[indices], standing.eps_of(indices)
        step = (
            relative_step * expand_eps(eps, adv_images) * standing.norm.step(gradient, adv_images)
        )
        adv_images = standing.norm.project(adv_images + step, clean, eps)


def check_step(relative_step: float | None, momentum: float) -> None:
    """Refuse steps that leave the ball at once and momenta that never fade.

    Raises:
        UserError: If one is out of range.
    """
    if relative_step is not None and not 0 < relative_step <= 2:
        raise UserError(f"the relative step must be in (0, 2], not {relative_step}")
    if not 0 <= momentum <= 1:
        raise UserError(f"the momentum must be in [0, 1], not {momentum}")
