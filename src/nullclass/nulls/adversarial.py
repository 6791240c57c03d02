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

from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
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
        if self.num_steps < 1:
            raise UserError(f"the null images need at least one step, not {self.num_steps}")

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Return adversarial images; the first step uses ``images.grad`` if it is set."""
        clean = images.detach()
        gradient = images.grad if images.grad is not None else self._gradient(clean, labels)
        if self.num_steps == 1:
            return NullImages((clean + self.eps * gradient.sign()).clamp(0, 1))
        step = 2.5 * self.eps / self.num_steps
        lower, upper = (clean - self.eps).clamp(min=0), (clean + self.eps).clamp(max=1)
        adv_images = clean
        for i in range(self.num_steps):
            if i > 0:
                gradient = self._gradient(adv_images, labels)
            adv_images = (adv_images + step * gradient.sign()).clamp(lower, upper)
        return NullImages(adv_images)

    def _gradient(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            loss = cross_entropy(self.model(images), labels, reduction="sum")
            return torch.autograd.grad(loss, images)[0]
