"""Transfer: attacks made on other models, tried out on this one.

Nothing but answers is asked of the model under attack, to keep of all sources' images the one that
did best. A model that falls to this and not to its own gradients hides them (Athalye et al. 2018,
"Obfuscated gradients give a false sense of security"). If a source is the model itself, this
is no transfer but the attack itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, Attack, frozen
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class Transfer:
    """One attack on each source model in turn, on the images that still stand on the target."""

    sources: tuple[Classifier, ...] = field(repr=False)
    """Models to make the attack on, with the target's classes. Null they may have or not: without
    it, fooling them is what every attack on them does."""
    attack: Attack
    """What is done to them; its objective is this attack's."""
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "none"

    def __post_init__(self) -> None:
        """Refuse an attack without a source."""
        if not self.sources or not all(isinstance(s, Classifier) for s in self.sources):
            raise UserError("transfer needs at least one source, all of them nullclass.Classifier")

    @property
    def objective(self) -> ObjectiveName:
        """The attack's objective."""
        return self.attack.objective

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
        """See :class:`nullclass.attacks.base.Attack`.

        Raises:
            UserError: Also if a source has another number of classes.
        """
        eps = check_eps(eps, norm, images.shape)
        for source in self.sources:
            if source.num_classes != model.num_classes:
                raise UserError(
                    f"a source has {source.num_classes} classes, but the model under attack "
                    f"{model.num_classes}: give sources of the same classes"
                )
        standing = AttackState(
            model, images, labels, eps, norm, self.objective, batch_size=batch_size
        )

        nearness = standing.margin("hard")
        with frozen(model):
            standing.try_clean(nearness)
            for source in self.sources:
                stands = standing.is_active.nonzero().squeeze(1)
                if not len(stands):
                    break
                allowed, device = standing.eps_of(stands), source.mean.device
                tried = standing.images.clone()
                tried[stands] = self.attack(
                    source,
                    standing.images[stands].to(device),
                    labels[stands].to(device),
                    eps=allowed.to(device) if isinstance(allowed, Tensor) else allowed,
                    norm=norm,
                    generator=generator,
                    batch_size=batch_size,
                ).to(tried)
                for indices in standing.batches():
                    standing.try_out(indices, tried[indices], nearness)
        return standing.adv_images
