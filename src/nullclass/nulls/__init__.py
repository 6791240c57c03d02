"""Where "none of these" comes from. A new source: one file, one line in :data:`NULL_SOURCES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from nullclass.core.errors import UserError
from nullclass.nulls.adversarial import AdversarialNulls
from nullclass.nulls.any_of import AnyOf
from nullclass.nulls.background import BackgroundNulls
from nullclass.nulls.base import NullImages, NullSource
from nullclass.nulls.ccat import CCATNulls
from nullclass.nulls.mixed import MixedNulls
from nullclass.nulls.null_probabilities import NullProbabilities
from nullclass.nulls.tile_shuffle import TileShuffleNulls
from nullclass.nulls.uniform import UniformNulls

__all__ = [
    "NULL_SOURCES",
    "AdversarialNulls",
    "AnyOf",
    "BackgroundNulls",
    "CCATNulls",
    "MixedNulls",
    "NullImages",
    "NullProbabilities",
    "NullSource",
    "TileShuffleNulls",
    "UniformNulls",
    "check_settings",
    "make_nulls",
]


def _any_of(
    model: nn.Module | None, sources: Mapping[str, Mapping[str, Any]] | None = None
) -> AnyOf:
    told = (sources or {}).items()
    return AnyOf({name: make_nulls(name, settings, model) for name, settings in told})


def _of_images(source: Callable[..., NullSource]) -> Callable[..., NullSource]:
    """A maker of a source that needs no model."""
    return lambda model, **settings: source(**settings)


NULL_SOURCES: dict[str, Callable[..., NullSource]] = {
    "adversarial": AdversarialNulls,
    "null-probabilities": NullProbabilities,
    "ccat": CCATNulls,
    "background": _of_images(BackgroundNulls),
    "uniform": _of_images(UniformNulls),
    "tile-shuffle": _of_images(TileShuffleNulls),
    "mixed": _of_images(MixedNulls),
    "any-of": _any_of,
}
"""Name to a maker, from the model in training and the source's settings."""


def make_nulls(name: str, settings: Mapping[str, Any], model: nn.Module | None) -> NullSource:
    """The source of that name.

    Args:
        name: A name in :data:`NULL_SOURCES`.
        settings: Its settings, by name.
        model: The model in training, for sources that attack it.

    Raises:
        UserError: If the source is unknown, or with its own reason to refuse the settings.
    """
    if name not in NULL_SOURCES:
        raise UserError(
            f"there is no null source {name!r}: choose one of {', '.join(NULL_SOURCES)}"
        )
    try:
        return NULL_SOURCES[name](model, **settings)
    except TypeError as error:
        raise UserError(f"the null source {name!r} has no such settings: {error}") from None


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a source that is unknown or settings it would refuse, before any work is done.

    Raises:
        UserError: With the source's own reason.
    """
    make_nulls(name, settings, None)
