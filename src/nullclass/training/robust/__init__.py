"""Losses that keep answers in a ball. A new one: one file, one line in :data:`ROBUST_LOSSES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nullclass.core.errors import UserError
from nullclass.training.robust.abstain import AbstainLoss
from nullclass.training.robust.adversarial import AdversarialLoss
from nullclass.training.robust.base import RobustLoss
from nullclass.training.robust.interval import IntervalLoss

__all__ = ["ROBUST_LOSSES", "RobustLoss", "make_robust"]

ROBUST_LOSSES: dict[str, Callable[..., RobustLoss]] = {
    "interval": IntervalLoss,
    "mtl-ibp": partial(IntervalLoss, bound_weight=0.5),
    "adversarial": AdversarialLoss,
    "abstain": AbstainLoss,
}
"""Robust losses by name."""


def make_robust(name: str, settings: Mapping[str, Any]) -> RobustLoss:
    """The loss of that name with those settings.

    Raises:
        UserError: If the name or a setting is unknown, or a value makes no sense.
    """
    if name not in ROBUST_LOSSES:
        known = ", ".join(ROBUST_LOSSES)
        raise UserError(f"there is no robust loss {name!r}: choose one of {known}")
    try:
        return ROBUST_LOSSES[name](**settings)
    except TypeError as error:
        raise UserError(f"the robust loss {name!r} does not take these settings: {error}") from None
