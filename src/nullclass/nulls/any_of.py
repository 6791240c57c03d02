"""Several kinds of null images: the kind of each image is drawn uniformly (Roos 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.nulls.base import NullImages, NullSource


class AnyOf(NullSource):
    """A source that draws, for each image, which of several sources makes it.

    Args:
        sources: The sources, by name or as a list.

    Raises:
        UserError: If there is none.
    """

    def __init__(self, sources: Mapping[str, NullSource] | Sequence[NullSource]) -> None:
        if not sources:
            raise UserError("a combination of null images needs at least one source")
        if not isinstance(sources, Mapping):
            sources = {f"{i}-{type(source).__name__}": source for i, source in enumerate(sources)}
        self.sources = dict(sources)
        self.needs_image_gradient = any(s.needs_image_gradient for s in self.sources.values())
        self.is_soft = any(s.is_soft for s in self.sources.values())

    def settings(self) -> dict[str, Any]:
        """Return the settings of each source by name."""
        return {"sources": {name: source.settings() for name, source in self.sources.items()}}

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Return images of random kinds (:class:`nullclass.nulls.base.NullSource`)."""
        kinds = torch.randint(len(self.sources), (len(images),), generator=generator)
        made = [source(images, labels, generator) for source in self.sources.values()]
        index = kinds.to(images.device), torch.arange(len(images), device=images.device)
        null_probs = None
        if self.is_soft:
            ones = images.new_ones(len(images))
            per_kind = [ones if part.null_probs is None else part.null_probs for part in made]
            null_probs = torch.stack(per_kind)[index]
        return NullImages(torch.stack([part.images for part in made])[index], null_probs)
