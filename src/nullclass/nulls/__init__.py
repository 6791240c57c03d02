"""Sources of null images: an open set. A new source: one file, one line in :data:`NULL_SOURCES`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nullclass.core.checks import check_choice
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
    "as_null_source",
    "make_nulls",
]


NULL_SOURCES: dict[str, type[NullSource]] = {
    "adversarial": AdversarialNulls,
    "null-probabilities": NullProbabilities,
    "ccat": CCATNulls,
    "background": BackgroundNulls,
    "uniform": UniformNulls,
    "tile-shuffle": TileShuffleNulls,
    "mixed": MixedNulls,
    "any-of": AnyOf,
}
"""Name to class; a class with an argument ``model`` gets the model in training."""


def make_nulls(name: str, settings: Mapping[str, Any], model: nn.Module | None) -> NullSource:
    """Return the null source of that name.

    Args:
        name: A name in :data:`NULL_SOURCES`.
        settings: Its settings, by name; those of ``any-of`` hold the settings of its sources.
        model: The model in training, for sources that attack it.

    Raises:
        UserError: If the source is unknown or rejects its settings.
    """
    source = NULL_SOURCES[check_choice("the null source", name, NULL_SOURCES)]
    arguments = dict(settings)
    if source is AnyOf:
        parts = settings.get("sources", {})
        if not isinstance(parts, Mapping):
            raise UserError("the sources of any-of must be a dictionary from names to settings")
        arguments["sources"] = {part: make_nulls(part, of, model) for part, of in parts.items()}
    parameters = inspect.signature(source).parameters
    if "model" in parameters:
        arguments["model"] = model
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and parameter.default is parameter.empty
        and key not in arguments
    ]
    if missing:
        raise UserError(
            f"the null source {name!r} needs settings without a default ({', '.join(missing)}): "
            f"give a {source.__name__} with them"
        )
    try:
        return source(**arguments)
    except TypeError as error:
        raise UserError(f"the null source {name!r} has no such settings: {error}") from None


def as_null_source(nulls: Any, model: nn.Module) -> NullSource:
    """Return the null source that a user means.

    Args:
        nulls: A source, a name in :data:`NULL_SOURCES`, or a list of these, which are mixed
            (:class:`AnyOf`).
        model: The model in training, for named sources that attack it.

    Raises:
        UserError: If it is none of these.
    """
    if isinstance(nulls, str):
        return make_nulls(nulls, {}, model)
    if isinstance(nulls, Sequence):
        return AnyOf([as_null_source(source, model) for source in nulls])
    if isinstance(nulls, type) or not (callable(nulls) and hasattr(nulls, "settings")):
        name = nulls.__name__ if isinstance(nulls, type) else type(nulls).__name__
        raise UserError(
            "nulls must be a null source such as AdversarialNulls(model, eps=0.15), a name such as "
            f"'uniform', or a list of these, not {name}"
        )
    source: NullSource = nulls
    return source
