"""The mean of two real images of different classes (Roos 2020; study-facts section 2, ``m``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.nulls.base import NullImages


class MixedNulls:
    """Null images between two classes: each image averaged with another of the batch.

    The partner is drawn uniformly from the batch's images of other classes, with replacement.

    Raises:
        UserError: When called, if an image has no partner because the batch has one class only.
    """

    needs_image_gradient = False
    is_soft = False

    def settings(self) -> dict[str, Any]:
        """None."""
        return {}

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """See :class:`nullclass.nulls.base.NullSource`."""
        labels = labels.cpu()
        may_meet = (labels[:, None] != labels[None, :]) & (labels >= 0)[None, :]
        if not bool(may_meet.any(dim=1).all()):
            raise UserError(
                f"mixed null images need two classes in every batch, and one of {len(labels)} has "
                "one only: use larger batches, or shuffle the images"
            )
        partners = torch.multinomial(may_meet.float(), 1, generator=generator).squeeze(1)
        images = images.detach()
        return NullImages((images + images[partners.to(images.device)]) / 2)
