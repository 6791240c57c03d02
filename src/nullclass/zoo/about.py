"""What a card of the zoo tells in words. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from nullclass.core.errors import UserError


@dataclass(frozen=True)
class About:
    """A member of the zoo, in words and in what it is evaluated at."""

    title: str
    """What it is, in a few words."""
    recipe: str
    """How it was trained."""
    claims: str
    """What it promises, and against whom."""
    limits: str
    """What it does not promise."""
    source: str
    """The paper or text it is from."""
    eps: tuple[float, ...]
    """Budgets of the leaderboard, rising, in pixel units (L∞)."""
    radius: float | None = None
    """Where it answers only what interval bounds prove: within this, in pixel units (L∞)."""
    licence: str = "MIT, as nullclass"
    """Of the weights."""

    def __post_init__(self) -> None:
        """Refuse what cannot be evaluated."""
        if not self.eps or list(self.eps) != sorted(set(self.eps)) or self.eps[0] <= 0:
            raise UserError(f"a card's eps must be positive and rising, not {self.eps}")

    @classmethod
    def from_card(cls, told: Any) -> About:
        """From the JSON values of a card.

        Raises:
            ValueError: If one is missing, unknown or of another kind.
        """
        if not isinstance(told, dict):
            raise ValueError(f"its part 'zoo' must be an object, not {told!r}")
        names = {field.name for field in fields(cls)}
        texts = names - {"eps", "radius"}
        eps, radius = told.get("eps"), told.get("radius")
        if set(told) != names or not all(isinstance(told[name], str) for name in texts):
            raise ValueError(f"its part 'zoo' needs {', '.join(sorted(names))}, and no more")
        if not isinstance(eps, list) or not all(map(_is_number, eps)):
            raise ValueError(f"eps must be a list of numbers, not {eps!r}")
        if not (radius is None or _is_number(radius)):
            raise ValueError(f"radius must be a number or null, not {radius!r}")
        return cls(**{**told, "eps": tuple(eps)})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
