"""The query budget of an attacker who trains a substitute. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from nullclass.core.checks import check_count
from nullclass.core.errors import UserError

MAX_OWN_IMAGES = 1000


def num_own(num_test: int) -> int:
    """Return how many of the last test images belong to the attacker; attacks use the first."""
    return min(MAX_OWN_IMAGES, num_test // 2)


@dataclass(frozen=True)
class QueryPlan:
    """The query budget; by default the paper's on MNIST: 150 images, doubled five times."""

    num_seed_images: int = 150
    """The attacker's own images that the first round queries."""
    budget: int = 4800
    """Label queries in total, those for the seed images included."""
    step: float = 0.1
    """How far augmentation moves each pixel (lambda, pixel units). Positive steps increase the
    logit of the label, as in the paper; negative steps decrease it, towards other classes."""

    def __post_init__(self) -> None:
        """Check all values."""
        check_count("num_seed_images", self.num_seed_images)
        check_count("budget", self.budget, 0)
        if self.budget < self.num_seed_images:
            raise UserError(
                f"a budget of {self.budget} label queries does not pay for the "
                f"{self.num_seed_images} seed images: raise the budget or use fewer seed images"
            )
        if not 0 < abs(self.step) <= 1:
            raise UserError(f"step must be in [-1, 1] pixel units and not 0, not {self.step}")
