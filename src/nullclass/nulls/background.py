"""A background class: images of other data are null (outlier exposure, Hendrycks et al. 2019)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.data import DATASETS, LabelledImages, load_dataset
from nullclass.nulls.base import NullImages, NullSource


class BackgroundNulls(NullSource):
    """Null images drawn from other data, with replacement, as many as the batch has.

    Args:
        dataset: Name in :data:`nullclass.data.DATASETS`. Its training images are loaded on first
            use.
        images: Your own images instead; ``dataset`` is then only their name.

    Raises:
        UserError: If there is no such dataset. When called, if the images differ in shape from the
            batch or the dataset is not available.
    """

    def __init__(
        self, dataset: str = "fashion-mnist", images: LabelledImages | None = None
    ) -> None:
        if images is None and dataset not in DATASETS:
            raise UserError(
                f"there are no background images {dataset!r}: choose one of {', '.join(DATASETS)}"
            )
        self.dataset = dataset
        self._images = images

    def settings(self) -> dict[str, Any]:
        """Return the name of the data, and a digest of your own images."""
        settings = {"dataset": self.dataset}
        if self._images is not None:
            settings["images_sha256"] = self._images.sha256()
        return settings

    @cached_property
    def _pool(self) -> LabelledImages:
        return self._images or load_dataset(self.dataset, validation=0).training_images()

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Return images of the other data (:class:`nullclass.nulls.base.NullSource`)."""
        shape, expected = tuple(self._pool.images.shape[1:]), tuple(images.shape[1:])
        if shape != expected:
            raise UserError(
                f"the background images of {self.dataset} are {shape}, and the training images "
                f"{expected}: use data of the same shape"
            )
        chosen = torch.randint(len(self._pool), (len(images),), generator=generator)
        drawn = self._pool.batch(chosen.to(self._pool.images.device))[0]
        return NullImages(drawn.to(images))
