"""A network that interval bounds are tight on: each pixel's soft threshold, then strides."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

STEEPNESS = 30.0
"""Of the soft threshold at first, per unit of pixel value; it is learned."""

THRESHOLD = 0.45
"""Where the soft threshold stands at first, a pixel value; it is learned."""


def certifiable_cnn(
    image_shape: tuple[int, int, int],
    num_outputs: int,
    *,
    widths: tuple[int, int, int] = (32, 64, 256),
) -> nn.Module:
    """A learned soft threshold of every pixel, two strided 4x4 convolutions, one hidden layer.

    The threshold is ``sigmoid(a x + b)``, one ``a`` and ``b`` a channel. Interval bounds of a
    function of one pixel are exact, and a steep one maps most boxes, of pixels that are nearly
    black or white, to almost nothing: it raised certified accuracy by four points and more at the
    same cost (LOG.md). It is no gradient masking: what is claimed of the
    network is proved, not attacked.

    Args:
        image_shape: ``(C, H, W)``.
        num_outputs: Number of logits.
        widths: Channels of the two convolutions, and hidden units.
    """
    channels, height, width = image_shape
    first, second, hidden = widths
    threshold = nn.Conv2d(channels, channels, kernel_size=1, groups=channels)
    with torch.no_grad():
        threshold.weight.fill_(STEEPNESS)
        threshold.bias.fill_(-STEEPNESS * THRESHOLD)  # type: ignore[union-attr]
    return nn.Sequential(
        OrderedDict(
            threshold=threshold,
            squash=nn.Sigmoid(),
            conv1=nn.Conv2d(channels, first, kernel_size=4, stride=2, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(first, second, kernel_size=4, stride=2, padding=1),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            hidden=nn.Linear(second * (height // 2 // 2) * (width // 2 // 2), hidden),
            relu3=nn.ReLU(),
            output=nn.Linear(hidden, num_outputs),
        )
    )
