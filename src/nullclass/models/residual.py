"""A residual network for small colour images."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8
"""Groups of every normalisation; widths are multiples of it."""

WIDTH = 40
"""Channels of the first convolution; twice as many at the end."""


class ResidualBlock(nn.Module):
    """Two convolutions beside a short cut (He et al. 2016).

    Normalised by groups of channels, not by batches: clean and null images pass in batches of
    their own, and statistics of one kind would not fit the other.

    Args:
        channels: Channels of the input.
        width: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return features ``(N, width, H / stride, W / stride)``, rounded up."""
        branch = F.relu(self.norm1(self.conv1(features)))
        return F.relu(self.shortcut(features) + self.norm2(self.conv2(branch)))


def residual_cnn(image_shape: tuple[int, int, int], num_outputs: int) -> nn.Sequential:
    """Return a residual network of three blocks for images such as CIFAR-10's, ``(3, 32, 32)``.

    Args:
        image_shape: ``(C, H, W)``.
        num_outputs: Number of logits.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(image_shape[0], WIDTH, 4, stride=2, padding=1, bias=False),
            norm1=nn.GroupNorm(GROUPS, WIDTH),
            relu1=nn.ReLU(),
            block1=ResidualBlock(WIDTH, WIDTH, 1),
            block2=ResidualBlock(WIDTH, 2 * WIDTH, 2),
            block3=ResidualBlock(2 * WIDTH, 2 * WIDTH, 1),
            pool=nn.AdaptiveMaxPool2d(1),
            flatten=nn.Flatten(),
            output=nn.Linear(2 * WIDTH, num_outputs),
        )
    )
