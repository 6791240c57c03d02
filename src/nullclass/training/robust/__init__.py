"""Robust losses: an open set. A new loss: one file, one line in :data:`ROBUST_LOSSES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nullclass.core.checks import check_choice
from nullclass.core.errors import UserError
from nullclass.training.robust.abstain import AbstainLoss
from nullclass.training.robust.adversarial import AdversarialLoss
from nullclass.training.robust.base import RobustLoss
from nullclass.training.robust.interval import IntervalLoss

__all__ = [
    "ROBUST_LOSSES",
    "AbstainLoss",
    "AdversarialLoss",
    "IntervalLoss",
    "RobustLoss",
    "make_robust",
]

ROBUST_LOSSES: dict[str, Callable[..., RobustLoss]] = {
    "interval": IntervalLoss,
    "mtl-ibp": partial(IntervalLoss, bound_weight=0.5),
    "adversarial": AdversarialLoss,
    "abstain": AbstainLoss,
}
"""Robust losses by name."""


def make_robust(name: str, settings: Mapping[str, Any]) -> RobustLoss:
    """Return the robust loss of that name.

    Raises:
        UserError: If the name or a setting is unknown, or a value is out of range.
    """
    check_choice("the robust loss", name, ROBUST_LOSSES)
    try:
        return ROBUST_LOSSES[name](**settings)
    except TypeError as error:
        raise UserError(f"the robust loss {name!r} does not take these settings: {error}") from None
