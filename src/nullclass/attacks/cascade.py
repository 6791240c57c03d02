"""Several attacks one after another, each on what still stands: the per-image worst case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Attack, frozen
from nullclass.attacks.geometry import Eps, check_eps
from nullclass.attacks.objectives import ObjectiveName, find_objective, is_success
from nullclass.attacks.pgd import PGD, Precision, TargetedPGD, logits_of
from nullclass.errors import UserError
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class Cascade:
    """A fixed sequence of attacks with one objective, cheapest first."""

    members: tuple[Attack, ...]
    """The attacks; their objectives agree."""
    is_search: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse members that want different things."""
        if len({member.objective for member in self.members}) != 1:
            raise UserError("a cascade needs at least one attack, all with the same objective")

    @property
    def objective(self) -> ObjectiveName:
        """The members' objective."""
        return self.members[0].objective

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
        objective = find_objective(self.objective)
        attacked = images.detach().clone()
        standing = torch.arange(len(images), device=images.device)
        for member in self.members:
            if not len(standing):
                break
            tried = member(
                model,
                images[standing],
                labels[standing],
                eps=eps[standing] if isinstance(eps, Tensor) else eps,
                norm=norm,
                generator=generator,
            )
            attacked[standing] = tried
            with frozen(model):
                logits = logits_of(model, tried)
            fell = is_success(logits, labels[standing], model.num_classes, objective)
            standing = standing[~fell]
        return attacked


def null_aware_pgd(
    num_steps: int = 40, num_target_steps: int = 40, precision: Precision = "float32"
) -> Cascade:
    """The null-aware PGD of the studies: smooth margin, hard margin, then every real target.

    The hard margin is there for models whose logits differ little, where the smooth one leads
    astray.

    Args:
        num_steps: Steps of each untargeted member.
        num_target_steps: Steps towards each of the K - 1 wrong real classes.
        precision: Of the gradients, as for :class:`nullclass.attacks.pgd.PGD`.
    """
    return Cascade(
        (
            PGD(form="smooth", num_steps=num_steps, precision=precision),
            PGD(form="hard", num_steps=num_steps, precision=precision),
            TargetedPGD(num_steps=num_target_steps, precision=precision),
        )
    )
