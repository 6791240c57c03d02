"""A K-class network in place of one with null, for attacks that know no null.

For images of true class y it has the logits

    w_y = max(z_y, z_null)        w_j = z_j for the other real classes

so that ``argmax w != y`` exactly if the model is fooled. (A class j > y that ties with null
to the last bit wins in the model, whose null comes last, and not in the view.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nullclass.models.classifier import Classifier


class KClassView(nn.Module):
    """A model as an ordinary K-class network, for images of one true class.

    Args:
        model: With or without null; without, the view changes nothing.
        label: y, the true class of all images.
    """

    def __init__(self, model: Classifier, label: int) -> None:
        super().__init__()
        self.model = model
        self.label = label
        self.training = model.training  # only its own mode: the model's parts may differ

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of images ``(N, C, H, W)`` in [0,1]."""
        logits: Tensor = self.model(images)
        num_classes, label = self.model.num_classes, self.label
        if logits.shape[1] == num_classes:
            return logits
        merged = logits[:, [label, num_classes]].amax(dim=1)
        parts = [logits[:, :label], merged[:, None], logits[:, label + 1 : num_classes]]
        return torch.cat(parts, dim=1)
