"""What a robust loss is, and how its ε rises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier


class LossOutput(NamedTuple):
    """What a robust loss made of a batch."""

    loss: Tensor
    """The mean over the batch, to be differentiated."""
    num_right: int
    """Images that stand at the ε of this step: proved, or not broken by the attack."""


class StepLoss(Protocol):
    """A robust loss bound to a model."""

    def __call__(
        self, images: Tensor, labels: Tensor, progress: float, generator: torch.Generator
    ) -> LossOutput:
        """The loss of images ``(N, C, H, W)`` with labels ``(N,)``.

        Args:
            images: In [0,1], on the model's device.
            labels: Real classes.
            progress: Share of all steps that are done, in [0, 1).
            generator: Stream of random starts.
        """
        ...


class RobustLoss(Protocol):
    """What training minimises instead of the clean loss; a frozen dataclass of its settings."""

    def bind(self, model: Classifier) -> StepLoss:
        """The loss of that model.

        Raises:
            UserError: If the loss makes no sense for the model, or its layers have no bounds.
        """
        ...

    def initialise(self, model: Classifier, generator: torch.Generator) -> None:
        """Give a fresh model the first weights the loss wants; most want none of their own."""
        ...

    def settings(self) -> dict[str, Any]:
        """All settings as JSON values."""
        ...


@dataclass(frozen=True)
class EpsSchedule:
    """ε over a training: 0, then rising linearly, then what is trained for."""

    eps: float
    """In pixel units, in (0, 1]."""
    warmup: float
    """Share of all steps at ε 0, on the clean loss alone."""
    ramp: float
    """Share of all steps after which ε is reached."""

    def __post_init__(self) -> None:
        """Refuse what never rises."""
        if not 0 < self.eps <= 1 or not math.isfinite(self.eps):
            raise UserError(f"the training eps must be in (0, 1] (pixel units), not {self.eps}")
        if not 0 <= self.warmup < self.ramp <= 1:
            raise UserError(
                "eps must begin to rise before it is reached: warmup in [0, 1) and ramp above it, "
                f"at most 1, not {self.warmup} and {self.ramp}"
            )

    def share(self, progress: float) -> float:
        """How much of ε is reached, in [0, 1]."""
        return min(1.0, max(0.0, (progress - self.warmup) / (self.ramp - self.warmup)))
