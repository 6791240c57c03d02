"""Adversarial images for training: a few steps of PGD."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.attacks.losses import find_objective
from nullclass.attacks.steps import ascend, input_gradient
from nullclass.core.modules import frozen
from nullclass.core.norms import find_ball
from nullclass.models.classifier import Classifier


def perturbed(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Return images ``(N, C, H, W)`` in [0,1] within L∞ ``eps`` that are likely to fool.

    ``num_steps`` steps of ``2.5 eps / num_steps`` (Madry et al. 2018) from a random start maximise
    the logsumexp margin, in which null is a defence.
    """
    objective, ball = find_objective("fool"), find_ball("linf")

    def loss(logits: Tensor) -> Tensor:
        return objective.loss(logits, labels, model.num_classes, "logsumexp-margin")

    adv_images = (images + ball.random(images, eps, generator)).clamp(0, 1)
    step_size = 2.5 * eps / num_steps
    with frozen(model):
        for _ in range(num_steps):
            gradient, _ = input_gradient(model, adv_images, loss)
            adv_images = ascend(
                adv_images, gradient, images, eps=eps, step_size=step_size, norm=ball
            )
    return adv_images
