"""A model that may refuse as one graph: images in, logits and labels out."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from nullclass.core.errors import UserError, describe_error
from nullclass.core.outcomes import NULL_LABEL, predictions
from nullclass.data.arrays import ROUNDING
from nullclass.models.classifier import Classifier
from nullclass.rejection import ConsistentNull, ProvableNull, SmoothedNull, ThresholdedClassifier

INPUT = "images"
OUTPUTS = ("logits", "labels")


class Graph(nn.Module):
    """What an exported file computes.

    Images ``(N, C, H, W)`` in [0,1], float32, N at least 1, to logits ``(N, K)`` or ``(N, K + 1)``
    and labels ``(N,)`` int64, -1 for null. Pixels beyond [0,1] by rounding are moved into it, as
    :meth:`nullclass.Classifier.predict` does; the label of an image with any other pixel outside,
    or with logits that are not finite, is null.

    Args:
        model: In evaluation mode.

    Raises:
        UserError: If the model draws random numbers, attacks its images, or its bounds need
            gradients.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        inner = model.model if isinstance(model, ThresholdedClassifier) else model
        if isinstance(inner, SmoothedNull):
            raise UserError(
                "a SmoothedNull draws noise for every image, which a graph does not: export the "
                "classifier inside it"
            )
        if isinstance(inner, ConsistentNull):
            raise UserError(
                "a ConsistentNull attacks every image, which a graph does not: export the "
                "classifier inside it"
            )
        if isinstance(inner, ProvableNull) and inner is not model:
            raise UserError(
                "a threshold around a ProvableNull is not exported: export the ProvableNull inside"
            )
        if isinstance(model, ProvableNull) and model.verifier != "interval":
            raise UserError(
                f"bounds of {model.verifier} need gradients, which a graph does not have: use the "
                "verifier interval"
            )
        self.model = model
        self.num_classes = model.num_classes
        self._layers = model.layers() if isinstance(model, ProvableNull) else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and labels."""
        is_valid = ((images >= -ROUNDING) & (images <= 1 + ROUNDING)).flatten(1).all(dim=1)
        images = images.clamp(0, 1)
        if isinstance(self.model, ProvableNull) and self._layers is not None:
            logits = self.model.logits_by(self._layers, images)
        else:
            logits = self.model(images)
        is_valid = is_valid & logits.isfinite().all(dim=1)
        labels = predictions(logits, self.num_classes)
        return logits, labels.masked_fill(~is_valid, NULL_LABEL)


def traced(model: Classifier, image_shape: tuple[int, ...]) -> Any:
    """Return the ``torch.export.ExportedProgram`` of a model, for any number of images.

    Raises:
        UserError: As for :class:`Graph`, or if the model cannot be exported.
    """
    graph = Graph(copy.deepcopy(model).cpu()).eval()
    images = torch.rand((3, *image_shape), generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            return torch.export.export(
                graph, (images,), dynamic_shapes={INPUT: {0: batch}}, strict=False
            )
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the model cannot be exported as a graph ({describe_error(error)}): write it without "
            "decisions that depend on the images, and without NumPy"
        ) from error
