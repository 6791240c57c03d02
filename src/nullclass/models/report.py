"""The report's network (Roos 2020; study-facts section 2)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from nullclass.models.dropout import Dropout


def report_cnn(image_shape: tuple[int, int, int], num_outputs: int) -> nn.Module:
    """Two unpadded 3x3 convolutions (32, 64), max-pool, dropout, 128 hidden units; Glorot init.

    Expects pixels in [0,1] as they are. Max-pooling before the second ReLU is the same
    function as the source's order. Biases start at zero (Keras's default).

    Args:
        image_shape: ``(C, H, W)``; ``(1, 28, 28)`` in the source.
        num_outputs: Number of logits; 11 in the source, null or not.
    """
    channels, height, width = image_shape
    body = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, kernel_size=3),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, kernel_size=3),
            pool=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            dropout1=Dropout(0.25),
            flatten=nn.Flatten(),
            hidden=nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
            relu3=nn.ReLU(),
            dropout2=Dropout(0.5),
            output=nn.Linear(128, num_outputs),
        )
    )
    return keras_start(body)


def keras_start(body: nn.Module) -> nn.Module:
    """Give every layer Keras's first weights: Glorot uniform, biases 0."""
    for layer in body.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return body
