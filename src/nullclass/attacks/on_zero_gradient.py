"""An attack on those images only whose margin is flat.

Gradients that are exactly zero are the plainest form of masking (Athalye et al. 2018), and what
follows gradients gets nowhere. Where there is a gradient, attacks that use it are far cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, Attack, frozen, norms_of
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState
from nullclass.core.norms import Eps, check_eps
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class OnZeroGradient:
    """An attack, left out for images whose smooth margin has a gradient where they are."""

    attack: Attack
    """The attack."""
    is_iterative: ClassVar[bool] = True

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms the attack knows."""
        return norms_of(self.attack)

    @property
    def objective(self) -> ObjectiveName:
        """The attack's objective."""
        return self.attack.objective

    @property
    def access(self) -> Access:
        """What the attack needs: the gradient only decides whether it is made at all."""
        return self.attack.access

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
            model, images, labels, eps, norm, self.objective, batch_size=batch_size
        )
        is_flat = torch.zeros_like(standing.is_active)

        climbed = standing.margin("smooth")
        with frozen(model):
            for indices in standing.batches():
                _, gradient, _ = standing.look(indices, standing.images[indices], climbed)
                is_flat[indices] = ~(gradient != 0).flatten(1).any(dim=1)
        is_flat &= standing.is_active
        adv_images = standing.adv_images
        if bool(is_flat.any()):
            adv_images[is_flat] = self.attack(
                model,
                standing.images[is_flat],
                labels[is_flat],
                eps=eps[is_flat] if isinstance(eps, Tensor) else eps,
                norm=norm,
                generator=generator,
                batch_size=batch_size,
            )
        return adv_images
