"""A residual network for small colour images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8
"""Groups of every normalisation; widths are multiples of it."""

Blocks = Sequence[tuple[int, int]]
"""Channels and stride of each block."""


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


def residual_cnn(
    image_shape: tuple[int, int, int],
    num_outputs: int,
    *,
    stride: int = 2,
    blocks: Blocks = ((40, 1), (80, 2), (80, 1)),
) -> nn.Sequential:
    """Return a residual network for images such as CIFAR-10's, ``(3, 32, 32)``.

    Args:
        image_shape: ``(C, H, W)``.
        num_outputs: Number of logits.
        stride: Stride of the first convolution, 1 or 2, whose kernel is larger by 2.
        blocks: The blocks. The first convolution has as many channels as the first block.
    """
    width = blocks[0][0]
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(image_shape[0], width, stride + 2, stride, padding=1, bias=False),
        norm1=nn.GroupNorm(GROUPS, width),
        relu1=nn.ReLU(),
    )
    for number, (channels, of_block) in enumerate(blocks, start=1):
        layers[f"block{number}"] = ResidualBlock(width, channels, of_block)
        width = channels
    layers.update(
        pool=nn.AdaptiveMaxPool2d(1), flatten=nn.Flatten(), output=nn.Linear(width, num_outputs)
    )
    return nn.Sequential(layers)
