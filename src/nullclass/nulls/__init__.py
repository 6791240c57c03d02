"""Where "none of these" comes from. A new source: one file, one line in :data:`NULL_SOURCES`."""

from __future__ import annotations

from collections.abc import Callable

from nullclass.nulls.adversarial import AdversarialNulls
from nullclass.nulls.base import NullSource

__all__ = ["NULL_SOURCES", "AdversarialNulls", "NullSource"]

NULL_SOURCES: dict[str, Callable[..., NullSource]] = {
    "adversarial": AdversarialNulls,
}
