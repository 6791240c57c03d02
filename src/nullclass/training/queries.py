"""What an attacker spends who may only ask a model. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from nullclass.core.errors import UserError

NUM_OWN = 1000
"""The attacker's own images are drawn from so many of the last test images (:func:`num_own`)."""


def num_own(num_test: int) -> int:
    """How many of the last test images are the attacker's own: attacks begin with the first."""
    return min(NUM_OWN, num_test // 2)


@dataclass(frozen=True)
class QueryPlan:
    """What the attacker spends: as the paper on MNIST, 150 images doubled five times."""

    num_seed_images: int = 150
    """Images of his own that he begins with."""
    budget: int = 4800
    """Label queries in all, those for the seed images among them."""
    step: float = 0.1
    """How far each pixel of an augmented image moves (lambda, pixel units): up to where the
    substitute is surer of the label, as in the paper, or if negative down, towards other answers.
    """

    def __post_init__(self) -> None:
        """Refuse plans that cannot begin."""
        if self.num_seed_images < 1:
            raise UserError(
                f"a substitute needs seed images: at least 1, not {self.num_seed_images}"
            )
        if self.budget < self.num_seed_images:
            raise UserError(
                f"a budget of {self.budget} label queries does not even pay for the "
                f"{self.num_seed_images} seed images: raise the budget or take fewer seed images"
            )
        if not 0 < abs(self.step) <= 1:
            raise UserError(
                f"the augmentation's step must be in [-1, 1] pixel units and not 0, not {self.step}"
            )
