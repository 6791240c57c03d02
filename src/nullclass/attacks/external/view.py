"""A K-class network in place of one with null, for attacks that know no null.

For images that all have the true class y it has the logits

    w_y = max(z_y, z_null)        w_j = z_j for the other real classes

so that ``argmax w != y`` says exactly that the model is fooled, whatever a library does inside. The
logsumexp form, w_y = log(exp z_y + exp z_null), has a gradient in both logits; being larger, it may
call an image defended that is not, never the other way round. (A class j > y that ties with null to
the last bit wins in the model, whose null comes last, and not in the view.)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nullclass.models.classifier import Classifier

Form = Literal["max", "logsumexp"]


class KClassView(nn.Module):
    """A model as an ordinary K-class network, for images of one true class.

    Args:
        model: With or without null; without, the view changes nothing.
        label: y, the true class of all images that will be shown.
        form: How the true and the null logit are merged.
    """

    def __init__(self, model: Classifier, label: int, form: Form = "max") -> None:
        super().__init__()
        self.model = model
        self.label = label
        self.form = form
        self.training = model.training  # its own only: the model's parts may differ

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)`` in [0,1]."""
        logits: Tensor = self.model(images)
        num_classes, label = self.model.num_classes, self.label
        if logits.shape[1] == num_classes:
            return logits
        accepted = logits[:, [label, num_classes]]
        merged = accepted.amax(dim=1) if self.form == "max" else accepted.logsumexp(dim=1)
        parts = [logits[:, :label], merged[:, None], logits[:, label + 1 : num_classes]]
        return torch.cat(parts, dim=1)
