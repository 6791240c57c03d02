"""A classifier around another one, which is not trained any more."""

from __future__ import annotations

from typing import Self

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

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what is inside stays in evaluation mode, in which it was measured."""
        super().train(mode)
        for part in self.children():
            part.eval()
        return self
