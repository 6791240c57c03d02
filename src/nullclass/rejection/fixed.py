"""A classifier around another one, which is not trained any more."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from nullclass.models.classifier import Classifier


class FixedClassifier(Classifier):
    """A classifier with another rule for null around one that stays in evaluation mode.

    Args:
        model: K classes; shared, not copied.
    """

    body: Classifier

    def __init__(self, model: Classifier) -> None:
        super().__init__(model, model.num_classes, image_shape=model.image_shape)

    @property
    def model(self) -> Classifier:
        """The classifier inside."""
        return self.body

    def forward(self, images: Tensor) -> Tensor:
        """See :class:`nullclass.models.Classifier`; also in ``torch.inference_mode``."""
        if not torch.is_inference_mode_enabled():
            return super().forward(images)
        # There tensors have no gradients, which inner attacks and linear bounds need.
        with torch.inference_mode(False), torch.no_grad():
            return super().forward(images.clone())

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what is inside stays in evaluation mode, in which it was measured."""
        super().train(mode)
        for part in self.children():
            part.eval()
        return self
