"""The interface of robust losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nullclass.certify import Network, read_network
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.models.classifier import Classifier
from nullclass.training.eps_schedule import EpsSchedule


class LossOutput(NamedTuple):
    """The loss of a batch."""

    loss: Tensor
    """The mean over the batch, differentiable."""
    num_robust: int
    """Images that are robust at the ε of this step: proved, or not fooled by the attack."""


StepLoss = Callable[[Tensor, Tensor, float, torch.Generator], LossOutput]
"""A robust loss bound to a model: images ``(N, C, H, W)`` in [0,1], labels ``(N,)``, the progress
in [0, 1) of all steps and the random stream of the attack's starts to the loss of the batch."""


@dataclass(frozen=True)
class RobustLoss:
    """A loss that training minimises instead of the clean one; its fields are its settings."""

    eps: float
    """L-infinity radius to train for, in pixel units, in (0, 1]."""
    warmup: float
    """Fraction of all steps on clean images alone."""
    ramp: float
    """Fraction of all steps after which ε is reached."""

    def __post_init__(self) -> None:
        """Check all values."""
        self.schedule  # noqa: B018 - checks eps, warmup and ramp

    @property
    def schedule(self) -> EpsSchedule:
        """How ε increases."""
        return EpsSchedule(self.eps, self.warmup, self.ramp)

    def settings(self) -> dict[str, Any]:
        """Return all settings as JSON values."""
        return asdict(self)

    def bind(self, model: Classifier) -> StepLoss:
        """Return the loss of a model.

        Raises:
            UserError: If the loss does not apply to the model, or a layer has no bounds.
        """
        raise NotImplementedError


def clean_output(model: Classifier, images: Tensor, labels: Tensor) -> LossOutput:
    """Return the clean loss, for steps with ε 0."""
    logits = model.all_logits(images)
    num_correct = int((logits.detach().argmax(dim=1) == labels).sum())
    return LossOutput(cross_entropy(logits, labels), num_correct)


def bounded_network(model: Classifier) -> Callable[[Tensor], Network]:
    """Return a function from images to the layers of a model that is trained on interval bounds.

    The layers are read now if the model's ``image_shape`` is known, else with the first images.

    Raises:
        UserError: If a layer has no bounds, or is batch norm: in training its output depends on
            the other images of the batch.
    """
    for name, module in model.body.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UserError(
                f"layer {name!r} is batch norm, through which no bounds can be trained: fold it "
                "into the layer before it, torch.nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), "
                "norm.eval()), or train a network without it, such as 'certifiable'"
            )
    shape = model.image_shape
    network = None if shape is None else read_network(model, shape)

    def network_for(images: Tensor) -> Network:
        nonlocal network
        if network is None:
            network = read_network(model, images.shape[1:])
        return network

    return network_for
