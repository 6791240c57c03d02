"""Where "none of these" comes from. A new source: one file, one line in :data:`NULL_SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nullclass.errors import UserError
from nullclass.nulls.adversarial import AdversarialNulls
from nullclass.nulls.base import NullSource

__all__ = ["NULL_SOURCES", "AdversarialNulls", "NullSource", "check_settings"]

NULL_SOURCES: dict[str, Callable[..., NullSource]] = {
    "adversarial": AdversarialNulls,
}
"""Name to a maker, from the model in training and the source's settings."""


def check_settings(name: str, settings: dict[str, Any]) -> None:
    """Refuse a source that is unknown or settings it would refuse, before any work is done.

    Raises:
        UserError: With the source's own reason.
    """
    if name not in NULL_SOURCES:
        raise UserError(
            f"there is no null source {name!r}: choose one of {', '.join(NULL_SOURCES)}"
        )
    NULL_SOURCES[name](None, **settings)
