"""Networks with K or K + 1 outputs. A new one: one file, one line in :data:`MODELS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from nullclass.core.errors import UserError
from nullclass.models.certifiable import certifiable_cnn
from nullclass.models.classifier import Classifier
from nullclass.models.notebook import notebook_cnn
from nullclass.models.ramp import ramp_cnn
from nullclass.models.report import report_cnn
from nullclass.models.small import small_cnn
from nullclass.models.widen import with_null_class

__all__ = ["MODELS", "Architecture", "Classifier", "build_model", "with_null_class"]


@dataclass(frozen=True)
class Architecture:
    """A network that can be rebuilt from its name."""

    build: Callable[[tuple[int, int, int], int], nn.Module]
    """From ``(C, H, W)`` and the number of logits to the network's body."""
    is_standardised: bool
    """Whether its pixels are standardised with the data's mean and standard deviation."""
    smallest: tuple[int, int] = (6, 6)
    """Height and width of the smallest images it takes."""


MODELS: dict[str, Architecture] = {
    "notebook": Architecture(notebook_cnn, is_standardised=True),
    "report": Architecture(report_cnn, is_standardised=False),
    "small": Architecture(small_cnn, is_standardised=False),
    "certifiable": Architecture(certifiable_cnn, is_standardised=False),
    "certifiable-medium": Architecture(
        partial(certifiable_cnn, widths=(24, 48, 160)), is_standardised=False
    ),
    "certifiable-small": Architecture(
        partial(certifiable_cnn, widths=(16, 32, 100)), is_standardised=False
    ),
    "ramp": Architecture(ramp_cnn, is_standardised=False, smallest=(1, 2)),
}


def build_model(
    architecture: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    has_null: bool = True,
    num_nulls: int = 1,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> Classifier:
    """Build a network of :data:`MODELS` with fresh weights, drawn from torch's global stream.

    Args:
        architecture: A name in :data:`MODELS`.
        image_shape: ``(C, H, W)`` of one image.
        num_classes: K, the number of real classes.
        has_null: Whether to add the null logit.
        num_nulls: How many null logits to add, if any.
        mean: Pixel mean of the data, used if the architecture standardises.
        std: Pixel standard deviation of the data, likewise.

    Raises:
        UserError: If the architecture is unknown or the images are too small for it.
    """
    if architecture not in MODELS:
        raise UserError(f"there is no model {architecture!r}: choose one of {', '.join(MODELS)}")
    spec = MODELS[architecture]
    if not spec.is_standardised:
        mean, std = (0.0,), (1.0,)
    try:
        body = spec.build(image_shape, num_classes + num_nulls * has_null)
    except RuntimeError:
        body = None
    height, width = spec.smallest
    if body is None or image_shape[1] < height or image_shape[2] < width:
        raise UserError(f"images of {image_shape[1:]} pixels are too small for {architecture!r}")
    model = Classifier(
        body,
        num_classes,
        has_null=has_null,
        num_nulls=num_nulls,
        mean=mean,
        std=std,
        architecture=architecture,
        image_shape=image_shape,
    )
    # On CPUs the convolutions run about 1.5 times as fast in this layout (LOG.md).
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
