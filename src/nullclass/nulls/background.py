"""A background class: images of other data are null (outlier exposure, Hendrycks et al. 2019)."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.data import DATASETS, LabelledImages, load_dataset
from nullclass.nulls.base import NullImages


class BackgroundNulls:
    """Null images drawn from other data, with replacement; the batch gives only their number.

    Args:
        dataset: Name in :data:`nullclass.data.DATASETS` of the data whose training images are drawn
            from; loaded when first needed.
        images: Images of one's own instead, and then ``dataset`` is only what they are called.

    Raises:
        UserError: If there is no such dataset. When called, if the images are of another shape than
            the batch's or the dataset cannot be had.
    """

    needs_image_gradient = False
    is_soft = False

    def __init__(
        self, dataset: str = "fashion-mnist", images: LabelledImages | None = None
    ) -> None:
        if images is None and dataset not in DATASETS:
            raise UserError(
                f"there are no background images {dataset!r}: choose one of {', '.join(DATASETS)}"
            )
        self.dataset = dataset
        self._given = images

    def settings(self) -> dict[str, Any]:
        """The name of the data, whose checksums are known; of one's own images also a digest."""
        told = {"dataset": self.dataset}
        if self._given is not None:
            pixels = self._given.images.cpu().contiguous().numpy()
            told["images_sha256"] = hashlib.sha256(pixels.data).hexdigest()
        return told

    @cached_property
    def _pool(self) -> LabelledImages:
        if self._given is not None:
            return self._given
        return load_dataset(self.dataset, validation=0).train

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """See :class:`nullclass.nulls.base.NullSource`."""
        shape, wanted = tuple(self._pool.images.shape[1:]), tuple(images.shape[1:])
        if shape != wanted:
            raise UserError(
                f"the background images of {self.dataset} are {shape}, and the training images "
                f"{wanted}: name data of the same shape"
            )
        chosen = torch.randint(len(self._pool), (len(images),), generator=generator)
        drawn = self._pool.batch(chosen.to(self._pool.images.device))[0]
        return NullImages(drawn.to(images))
