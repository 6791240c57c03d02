"""Adversarial images of the model in training, labelled null (Hosseini et al. 2017).

    x_null = clamp(x + eps * sign(dL/dx), 0, 1),   L = CE(f(x), y)

With several steps the sign step is repeated within the same L-infinity ball (PGD). The notebook
adds its epsilon to the standardised image; here eps is in pixel units (0.3081 times the notebook's
on MNIST).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nullclass.attacks.steps import ascend, input_gradient
from nullclass.core.checks import check_count
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.core.norms import find_ball
from nullclass.nulls.base import NullImages, NullSource


@dataclass(frozen=True)
class AdversarialNulls(NullSource):
    """Null images made by attacking the model in training.

    Raises:
        UserError: If ``eps`` or ``num_steps`` is out of range.
    """

    model: nn.Module
    """The model in training: images ``(N, C, H, W)`` in [0,1] to logits."""
    eps: float = 0.154
    """L-infinity size of the step in pixel units, in (0, 1]; by default the notebook's 0.5."""
    num_steps: int = 1
    """1 is FGSM, as in the notebook; more are PGD steps of size 2.5 eps / num_steps."""

    needs_image_gradient = True

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.eps <= 1:
            raise UserError(f"the null images' eps must be in (0, 1] pixel units, not {self.eps}")
        check_count("num_steps", self.num_steps)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Return adversarial images; the first step uses ``images.grad`` if it is set."""
        clean, gradient, ball = images.detach(), images.grad, find_ball("linf")
        step_size = self.eps if self.num_steps == 1 else 2.5 * self.eps / self.num_steps
        adv_images = clean
        for _ in range(self.num_steps):
            if gradient is None:
                gradient, _ = input_gradient(
                    self.model,
                    adv_images,
                    lambda logits: cross_entropy(logits, labels, reduction="none"),
                )
            adv_images = ascend(
                adv_images, gradient, clean, eps=self.eps, step_size=step_size, norm=ball
            )
            gradient = None
        return NullImages(adv_images)
