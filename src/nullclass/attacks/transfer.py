"""Transfer: adversarial images of other models, evaluated on this one.

The model under attack only evaluates the images, to keep the best of all sources. A model that
loses to this attack but not to its own gradients hides them (Athalye et al. 2018, "Obfuscated
gradients give a false sense of security"). With the model itself as a source this is no transfer
but the attack itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from nullclass.attacks.base import Attack, WrappedAttack
from nullclass.attacks.state import AttackState
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.results.schema import Access


@dataclass(frozen=True)
class Transfer(WrappedAttack):
    """One attack on each source model in turn, on the images still active on the target."""

    sources: tuple[Classifier, ...] = field(repr=False)
    """Models to attack, with the target's classes, with or without null."""
    attack: Attack
    """The attack on them; its objective is this attack's."""
    access: ClassVar[Access] = "none"

    def __post_init__(self) -> None:
        """Check the sources and the attack."""
        is_sequence = isinstance(self.sources, Sequence) and len(self.sources) > 0
        if not is_sequence or not all(isinstance(s, Classifier) for s in self.sources):
            raise UserError(
                "Transfer needs a tuple with at least one nullclass.Classifier to attack, and then "
                "the attack: Transfer((source,), PGD())"
            )
        object.__setattr__(self, "sources", tuple(self.sources))
        super().__post_init__()

    def prepare(self, state: AttackState) -> None:
        """Refuse sources of other classes; see :class:`nullclass.attacks.base.BaseAttack`."""
        num_classes = state.model.num_classes
        for source in self.sources:
            if source.num_classes != num_classes:
                raise UserError(
                    f"a source has {source.num_classes} classes, but the model under attack "
                    f"{num_classes}: give sources of the same classes"
                )

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        state.evaluate_clean()
        for source in self.sources:
            active = state.active.nonzero().squeeze(1)
            if not len(active):
                break
            adv_images = state.attack_some(self.attack, source, active, generator)
            state.evaluate_all(active, adv_images)
