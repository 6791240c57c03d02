"""Confidence-calibrated adversarial training (CCAT, Stutz, Hein & Schiele 2020).

    x' maximises max_{k != y} p_k(x') within the L-infinity ball,
    t = lambda onehot(y) + (1 - lambda) null,    lambda = (1 - min(1, |x' - x|_inf / eps))^rho

(their equations 4 and 7). Their null is the uniform distribution of a model without a null class,
which a threshold on the confidence refuses: train with ``uniform_targets`` for that. With a null
class the probability goes there. They take 40 steps of 0.005 at eps 0.3, from a random start: two
thirds of eps in total, so that distances vary. If every image were at the edge of the ball, all
targets would be the same. Differences: momentum 0.9 and the best iterate instead of their
backtracking.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.attacks.steps import add_momentum, ascend, input_gradient
from nullclass.core.checks import check_count, check_positive
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.core.norms import find_ball
from nullclass.models.classifier import Classifier
from nullclass.nulls.base import NullImages, NullSource

MOMENTUM = 0.9


@dataclass(frozen=True)
class CCATNulls(NullSource):
    """Images that the model confidently misclassifies, with null by their distance.

    Raises:
        UserError: If a setting is out of range.
    """

    model: Classifier
    """The model in training."""
    eps: float = 0.3
    """Radius of the L-infinity ball in pixel units, in (0, 1]."""
    num_steps: int = 10
    """Gradient steps; 40 in the source."""
    power: float = 10.0
    """rho, how fast the probability of the label decays with the distance; 10 in the source."""
    reach: float = 2 / 3
    """The largest distance that all steps together can move, as a fraction of eps."""

    is_soft = True

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.eps <= 1:
            raise UserError(f"the null images' eps must be in (0, 1] pixel units, not {self.eps}")
        check_count("num_steps", self.num_steps)
        check_positive("power", self.power)
        check_positive("reach", self.reach)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        """Return adversarial images (:class:`nullclass.nulls.base.NullSource`)."""
        clean, ball = images.detach(), find_ball("linf")
        adv_images = ball.project(self._random_start(clean, generator), clean, self.eps)
        best, best_score = adv_images, clean.new_full((len(clean),), -torch.inf)
        velocity = torch.zeros_like(clean)
        step_size = self.reach * self.eps / self.num_steps

        def loss(logits: Tensor) -> Tensor:
            return wrong_log_probs(logits, labels, self.model.num_classes)

        with frozen(self.model):
            for i in range(self.num_steps + 1):
                gradient, score = input_gradient(self.model, adv_images, loss)
                is_better = score > best_score
                best = torch.where(is_better[:, None, None, None], adv_images, best)
                best_score = torch.where(is_better, score, best_score)
                if i < self.num_steps:
                    velocity = add_momentum(velocity, gradient, MOMENTUM)
                    adv_images = ascend(
                        adv_images, velocity, clean, eps=self.eps, step_size=step_size, norm=ball
                    )
        distance = ball.size(best - clean) / self.eps
        return NullImages(best, 1 - (1 - distance.clamp(max=1)) ** self.power)

    def _random_start(self, clean: Tensor, generator: torch.Generator | None) -> Tensor:
        """Move in a random direction by a length uniform in [0, eps], as the source does."""
        direction = torch.randn(clean.shape, generator=generator)
        largest = direction.flatten(1).abs().amax(dim=1)
        length = self.eps * torch.rand(len(clean), generator=generator) / largest
        return clean + (direction * length[:, None, None, None]).to(clean)


def wrong_log_probs(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return ``(N,)``: the largest log-probability of a wrong real class."""
    log_probs = logits.float().log_softmax(dim=1)[:, :num_classes]
    is_true = F.one_hot(labels.clamp(min=0), num_classes).bool() & (labels >= 0)[:, None]
    wrong: Tensor = log_probs.masked_fill(is_true, -torch.inf).amax(dim=1)
    return wrong
