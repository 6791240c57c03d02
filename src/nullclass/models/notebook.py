"""The notebook's network (study-facts section 1)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def notebook_cnn(image_shape: tuple[int, int, int], num_outputs: int) -> nn.Module:
    """Two padded 3x3 convolutions (32, 64), max-pool, 128 hidden units; torch's own init.

    Max-pooling comes before the second ReLU: both orders are the same function with the
    same gradient, and this one applies ReLU to a quarter of the values.

    Args:
        image_shape: ``(C, H, W)``; ``(1, 28, 28)`` in the source.
        num_outputs: Number of logits.
    """
    channels, height, width = image_shape
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, kernel_size=3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, kernel_size=3, padding=1),
            pool=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            hidden=nn.Linear(64 * (height // 2) * (width // 2), 128),
            relu3=nn.ReLU(),
            output=nn.Linear(128, num_outputs),
        )
    )
