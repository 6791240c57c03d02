"""Several kinds of null images: each image's kind is drawn uniformly (study-facts section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.nulls.base import NullImages, NullSource


class AnyOf:
    """A source that draws, for each image, which of several sources makes it.

    Args:
        sources: The sources by name.

    Raises:
        UserError: If there is none.
    """

    def __init__(self, sources: Mapping[str, NullSource]) -> None:
        if not sources:
            raise UserError("a combination of null images needs at least one source")
        self.sources = dict(sources)
        self.needs_image_gradient = any(s.needs_image_gradient for s in sources.values())
        self.is_soft = any(s.is_soft for s in sources.values())

    def settings(self) -> dict[str, Any]:
        """The sources' settings by name."""
        return {"sources": {name: source.settings() for name, source in self.sources.items()}}

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """See :class:`nullclass.nulls.base.NullSource`."""
        kinds = torch.randint(len(self.sources), (len(images),), generator=generator)
        made = [source(images, labels, generator) for source in self.sources.values()]
        chosen = kinds.to(images.device), torch.arange(len(images), device=images.device)
        shares = None
        if self.is_soft:
            whole = images.new_ones(len(images))
            told = [whole if part.shares is None else part.shares for part in made]
            shares = torch.stack(told)[chosen]
        return NullImages(torch.stack([part.images for part in made])[chosen], shares)
