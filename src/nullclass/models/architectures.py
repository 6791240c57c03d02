"""Architectures by name.

Max-pooling comes before ReLU: both orders are the same function with the same gradient, and this
one applies ReLU to a quarter of the values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from nullclass.core.checks import check_choice
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.models.dropout import Dropout
from nullclass.models.residual import residual_cnn

ImageShape = tuple[int, int, int]
"""``(C, H, W)``."""

STEEPNESS = 30.0
"""Initial slope of the soft threshold of :func:`certifiable_cnn`, per unit of pixel value."""

THRESHOLD = 0.45
"""Initial position of that threshold, a pixel value."""


def notebook_cnn(image_shape: ImageShape, num_outputs: int) -> nn.Sequential:
    """Return the notebook's network, ``(1, 28, 28)`` there, with torch's initialisation."""
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


def report_cnn(image_shape: ImageShape, num_outputs: int) -> nn.Sequential:
    """Return the report's network (Roos 2020), ``(1, 28, 28)`` there, initialised as in Keras."""
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
    return _glorot(body)


def ramp_cnn(image_shape: ImageShape, num_outputs: int) -> nn.Sequential:
    """Return the report's toy network for images of three pixels, ``(1, 1, 3)``."""
    channels, height, width = image_shape
    body = nn.Sequential(
        OrderedDict(
            pad1=nn.ZeroPad2d((0, 1, 0, 0)),  # Keras pads an even kernel on the right
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
    return _glorot(body)


def small_cnn(image_shape: ImageShape, num_outputs: int) -> nn.Sequential:
    """Return the small strided network of Wong & Kolter 2018: quick to attack and to bound."""
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


def certifiable_cnn(
    image_shape: ImageShape, num_outputs: int, *, widths: tuple[int, int, int] = (32, 64, 256)
) -> nn.Sequential:
    """Return a network with tight interval bounds: a learned soft threshold, then strides.

    The threshold is ``sigmoid(a x + b)``, one ``a`` and ``b`` per channel. Interval bounds of a
    function of one pixel are exact, and a steep one maps most boxes around pixels that are nearly
    black or white to almost a point (LOG.md). It masks no gradients from an attack: claims about
    the network are proved.

    Args:
        image_shape: ``(C, H, W)``.
        num_outputs: Number of logits.
        widths: Channels of the two convolutions, and hidden units.
    """
    channels, height, width = image_shape
    first, second, hidden = widths
    threshold = nn.Conv2d(channels, channels, kernel_size=1, groups=channels)
    nn.init.constant_(threshold.weight, STEEPNESS)
    nn.init.constant_(threshold.bias, -STEEPNESS * THRESHOLD)  # type: ignore[arg-type]
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


def _glorot(body: nn.Sequential) -> nn.Sequential:
    """Initialise as Keras does: Glorot uniform weights, zero biases."""
    for layer in body:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return body


@dataclass(frozen=True)
class Architecture:
    """A network that can be rebuilt from its name."""

    build: Callable[[ImageShape, int], nn.Module]
    """Maps ``(C, H, W)`` and the number of logits to the network's body."""
    is_standardised: bool = False
    """Whether pixels are standardised with the data's mean and standard deviation."""
    smallest: tuple[int, int] = (6, 6)
    """Height and width of the smallest images that it accepts."""


WIDE_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2))
"""Of the larger residual network, for a GPU."""

ARCHITECTURES: dict[str, Architecture] = {
    "notebook": Architecture(notebook_cnn, is_standardised=True),
    "report": Architecture(report_cnn),
    "small": Architecture(small_cnn),
    "residual": Architecture(residual_cnn, is_standardised=True, smallest=(2, 2)),
    "residual-wide": Architecture(
        partial(residual_cnn, stride=1, blocks=WIDE_BLOCKS), is_standardised=True, smallest=(2, 2)
    ),
    "certifiable": Architecture(certifiable_cnn),
    "certifiable-medium": Architecture(partial(certifiable_cnn, widths=(24, 48, 160))),
    "certifiable-small": Architecture(partial(certifiable_cnn, widths=(16, 32, 100))),
    "ramp": Architecture(ramp_cnn, smallest=(1, 2)),
}


def build_model(
    architecture: str,
    *,
    image_shape: ImageShape,
    num_classes: int,
    has_null: bool = True,
    num_nulls: int = 1,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> Classifier:
    """Build a network with new weights, drawn from torch's global generator.

    Args:
        architecture: A key of :data:`ARCHITECTURES`.
        image_shape: ``(C, H, W)`` of one image.
        num_classes: K, the number of real classes.
        has_null: Whether to add null logits.
        num_nulls: How many null logits to add, if any.
        mean: Pixel mean of the data, used if the architecture standardises.
        std: Pixel standard deviation of the data, likewise.

    Raises:
        UserError: If the architecture is unknown or the images are too small for it.
    """
    entry = ARCHITECTURES[check_choice("the model", architecture, ARCHITECTURES)]
    height, width = entry.smallest
    if len(image_shape) != 3:
        raise UserError(f"image_shape must be (C, H, W), not {tuple(image_shape)}")
    if image_shape[1] < height or image_shape[2] < width:
        raise UserError(f"images of {image_shape[1:]} pixels are too small for {architecture!r}")
    model = Classifier(
        entry.build(image_shape, num_classes + num_nulls * has_null),
        num_classes,
        has_null=has_null,
        num_nulls=num_nulls,
        mean=mean if entry.is_standardised else (0.0,),
        std=std if entry.is_standardised else (1.0,),
        architecture=architecture,
        image_shape=image_shape,
    )
    # On CPUs the convolutions run about 1.5 times as fast in this layout (LOG.md).
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
