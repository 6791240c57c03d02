"""Feature squeezing (Xu, Evans & Qi 2018, "Detecting adversarial examples in deep neural
networks").

The score is the largest change of the softmax probabilities under a few squeezers:

    s(x) = max_squeezer | softmax f(x) - softmax f(squeezer(x)) |_1

Broken by He et al. 2017 and Bryniarski et al. 2021. Rounding has the gradient of a steep sigmoid
between two levels, and the median that of the selected pixel, so attacks see through both. With the
gradient of the identity attacks climb through pixels that cannot reach another level: they fooled
fewer images, and red flags fired. :mod:`nullclass.attacks.nearest_first` fools nearly all (LOG.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nullclass.core.checks import check_count
from nullclass.models.classifier import Classifier, check_classifier
from nullclass.rejection.reject_by import with_gradient_of


class FeatureSqueezing(nn.Module):
    """The detector; the paper's two squeezers that need no colour.

    Args:
        classifier: K classes.
        num_bits: Bits per pixel after :func:`reduce_bits`; the paper takes 1 for MNIST, 5 for
            CIFAR-10.
        window: Side of the window of :func:`median_filter`; the paper takes 2.

    Raises:
        UserError: If a number is out of range.
    """

    def __init__(self, classifier: Classifier, *, num_bits: int = 1, window: int = 2) -> None:
        super().__init__()
        self.classifier = check_classifier(classifier)
        self.num_bits = check_count("num_bits", num_bits, 1, 8)
        self.window = check_count("window", window, 2)

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return scores ``(N,)`` in [0, 2]."""
        probabilities = logits.softmax(dim=1)
        changes = [
            (self.classifier(squeezed).softmax(dim=1) - probabilities).abs().sum(dim=1)
            for squeezed in (
                reduce_bits(images, self.num_bits),
                median_filter(images, self.window),
            )
        ]
        return torch.maximum(*changes)


SOFTNESS = 0.1
"""Width of the sigmoid whose gradient rounding has, as a share of the distance of two levels."""


def reduce_bits(images: Tensor, num_bits: int) -> Tensor:
    """Return images in [0,1] rounded to ``2**num_bits`` levels.

    The gradient is that of a sigmoid at the nearest boundary between two levels.
    """
    steps = 2**num_bits - 1
    levels = images * steps
    below = (levels.detach() - 0.5).round().clamp(0, steps - 1)
    soft = below + torch.sigmoid((levels - below - 0.5) / SOFTNESS)
    return with_gradient_of(levels.round() / steps, soft / steps)


def median_filter(images: Tensor, window: int) -> Tensor:
    """Return the median of each window of the channel; the edge pixels are repeated outside.

    As ``scipy.ndimage.median_filter(size=window, mode="nearest")``: the window of an even side
    begins ``window / 2`` before its pixel, and the median of an even number of values is the larger
    one of the middle two.

    Args:
        images: ``(N, C, H, W)``.
        window: Side of the window.
    """
    before = window // 2
    after = window - 1 - before
    padded = F.pad(images, (before, after, before, after), mode="replicate")
    windows = padded.unfold(2, window, 1).unfold(3, window, 1).flatten(4)
    medians: Tensor = windows.sort(dim=4).values[..., window**2 // 2]
    return medians
