"""Attacked images for training: a few steps of PGD, nothing kept of what stands."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.attacks.base import frozen
from nullclass.attacks.losses import find_objective
from nullclass.models.classifier import Classifier


def perturbed(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Images ``(N, C, H, W)`` in [0,1] within L∞ ``eps``, made to be fooled.

    From a random start, ``num_steps`` steps of ``2.5 eps / num_steps`` (Madry et al. 2018) up the
    smooth null-aware margin, under which null is a defence. The model is left as it was.
    """
    margin = find_objective("fool").loss
    start = torch.rand(images.shape, generator=generator).to(images.device)
    adv_images = (images + (2 * start - 1) * eps).clamp(0, 1)
    with frozen(model):
        for _ in range(num_steps):
            adv_images = adv_images.requires_grad_()
            climbed = margin(model(adv_images), labels, model.num_classes, "logsumexp-margin").sum()
            (gradient,) = torch.autograd.grad(climbed, adv_images)
            moved = adv_images.detach() - images + 2.5 * eps / num_steps * gradient.sign()
            adv_images = (images + moved.clamp(-eps, eps)).clamp(0, 1)
    return adv_images.detach()
