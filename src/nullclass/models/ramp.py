"""The report's toy network for images of three pixels (Roos 2020; study-facts section 2)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from nullclass.models.dropout import Dropout
from nullclass.models.report import keras_start


def ramp_cnn(image_shape: tuple[int, int, int], num_outputs: int) -> nn.Module:
    """Two convolutions of width 2 (8, 16), max-pool of stride 1, 32 hidden units; Glorot init.

    Expects one row of pixels in [0,1] as they are. Keras pads an even width on the right.

    Args:
        image_shape: ``(C, 1, W)``; ``(1, 1, 3)`` in the source.
        num_outputs: Number of logits; 3 in the source, null or not.
    """
    channels, height, width = image_shape
    body = nn.Sequential(
        OrderedDict(
            pad1=nn.ZeroPad2d((0, 1, 0, 0)),
            conv1=nn.Conv2d(channels, 8, kernel_size=(1, 2)),
            relu1=nn.ReLU(),
            pad2=nn.ZeroPad2d((0, 1, 0, 0)),
            conv2=nn.Conv2d(8, 16, kernel_size=(1, 2)),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d((1, 2), stride=1),
            dropout1=Dropout(0.25),
            flatten=nn.Flatten(),
            hidden=nn.Linear(16 * height * (width - 1), 32),
            relu3=nn.ReLU(),
            dropout2=Dropout(0.5),
            output=nn.Linear(32, num_outputs),
        )
    )
    return keras_start(body)
