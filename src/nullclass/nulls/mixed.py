"""The mean of two images of different classes, labelled null (Roos 2020, null samples "m")."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.nulls.base import NullImages, NullSource


class MixedNulls(NullSource):
    """Null images between two classes: each image averaged with another one of the batch.

    The partner is drawn uniformly, with replacement, from the images of other classes in the batch.
    """

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Return the means (:class:`nullclass.nulls.base.NullSource`).

        Raises:
            UserError: If all images of the batch have the same label.
        """
        labels = labels.cpu()
        can_pair = (labels[:, None] != labels[None, :]) & (labels >= 0)[None, :]
        if not bool(can_pair.any(dim=1).all()):
            raise UserError(
                f"mixed null images need two classes in every batch, but a batch of {len(labels)} "
                "has only one: use larger batches or more nulls per image, or shuffle the images"
            )
        partners = torch.multinomial(can_pair.float(), 1, generator=generator).squeeze(1)
        images = images.detach()
        return NullImages((images + images[partners.to(images.device)]) / 2)
