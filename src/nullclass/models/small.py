"""The small strided network of Wong & Kolter 2018 (MNIST): quick to attack and to bound."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def small_cnn(image_shape: tuple[int, int, int], num_outputs: int) -> nn.Module:
    """Two strided 4x4 convolutions (16, 32), 100 hidden units; torch's own init.

    Args:
        image_shape: ``(C, H, W)``; ``(1, 28, 28)`` in the source.
        num_outputs: Number of logits.
    """
    channels, height, width = image_shape
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 16, kernel_size=4, stride=2, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            hidden=nn.Linear(32 * (height // 2 // 2) * (width // 2 // 2), 100),
            relu3=nn.ReLU(),
            output=nn.Linear(100, num_outputs),
        )
    )
