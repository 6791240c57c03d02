"""Confidence-calibrated adversarial training (CCAT, Stutz, Hein & Schiele 2020).

    x' maximises max_{k != y} p_k(x') within the L-infinity ball,
    t = lambda onehot(y) + (1 - lambda) null,    lambda = (1 - min(1, |x' - x|_inf / eps))^rho

(their equations 4 and 7). Their null is the uniform distribution of a model without a null class,
which a threshold on the confidence refuses later: train with ``uniform_targets`` for that. With a
null
class the share goes there. They take 40 steps of 0.005 at eps 0.3, from a random start: two thirds
of eps together, so that distances vary; were every image at the edge of the ball, the target would
have nothing to decay over. What differs: momentum 0.9 and the best iterate kept, in place of their
backtracking.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nullclass.attacks.base import frozen
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.nulls.base import NullImages

MOMENTUM = 0.9


class CCATNulls:
    """Images on which the model is confidently wrong, null in part by their distance.

    Args:
        model: The model in training.
        eps: Size of the L-infinity ball, in pixel units, in (0, 1].
        num_steps: Gradient steps; 40 in the source.
        power: rho, how fast the target decays; 10 in the source.
        reach: How far all steps together can go, as a share of eps.

    Raises:
        UserError: If a setting is out of range.
    """

    needs_image_gradient = False
    is_soft = True

    def __init__(
        self,
        model: Classifier,
        eps: float = 0.3,
        num_steps: int = 10,
        power: float = 10.0,
        reach: float = 2 / 3,
    ) -> None:
        if not 0 < eps <= 1:
            raise UserError(f"the null images' eps must be in (0, 1] pixel units, not {eps}")
        if num_steps < 1 or not 0 < power < math.inf or not 0 < reach < math.inf:
            raise UserError(
                "CCAT needs at least one step, a power above 0 and a reach above 0, not "
                f"{num_steps}, {power} and {reach}"
            )
        self.model = model
        self.eps = eps
        self.num_steps = num_steps
        self.power = power
        self.reach = reach

    def settings(self) -> dict[str, Any]:
        """Eps, num_steps, power and reach; the model is the one in training."""
        return {
            "eps": self.eps,
            "num_steps": self.num_steps,
            "power": self.power,
            "reach": self.reach,
        }

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """See :class:`nullclass.nulls.base.NullSource`."""
        clean = images.detach()
        lower, upper = (clean - self.eps).clamp(min=0), (clean + self.eps).clamp(max=1)
        adv_images = self._start(clean, generator).clamp(lower, upper)
        best, best_wrong = adv_images, clean.new_full((len(clean),), -torch.inf)
        past = torch.zeros_like(clean)
        step = self.reach * self.eps / self.num_steps
        with frozen(self.model):
            for done in range(self.num_steps + 1):
                start = adv_images.clone().requires_grad_()
                wrong = self._wrong(start, labels)
                is_better = wrong.detach() > best_wrong
                best = torch.where(is_better[:, None, None, None], adv_images, best)
                best_wrong = torch.where(is_better, wrong.detach(), best_wrong)
                if done == self.num_steps:
                    break
                (gradient,) = torch.autograd.grad(wrong.sum(), start)
                size = gradient.flatten(1).abs().sum(dim=1).clamp(min=1e-12)
                past = MOMENTUM * past + gradient / size[:, None, None, None]
                adv_images = (adv_images + step * past.sign()).clamp(lower, upper)
        how_far = (best - clean).flatten(1).abs().amax(dim=1) / self.eps
        return NullImages(best, 1 - (1 - how_far.clamp(max=1)) ** self.power)

    def _start(self, clean: Tensor, generator: torch.Generator | None) -> Tensor:
        """A random direction, its length uniform in [0, eps] (the source's initialisation)."""
        direction = torch.randn(clean.shape, generator=generator)
        largest = direction.flatten(1).abs().amax(dim=1)
        length = self.eps * torch.rand(len(clean), generator=generator) / largest
        return clean + (direction * length[:, None, None, None]).to(clean)

    def _wrong(self, images: Tensor, labels: Tensor) -> Tensor:
        """``(N,)``: the largest log-probability of a wrong real class."""
        logs = self.model(images).float().log_softmax(dim=1)[:, : self.model.num_classes]
        is_true = torch.nn.functional.one_hot(labels.clamp(min=0), self.model.num_classes).bool()
        wrong: Tensor = logs.masked_fill(is_true & (labels >= 0)[:, None], -torch.inf)
        return wrong.amax(dim=1)
