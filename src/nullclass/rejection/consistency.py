"""Consistency: answer only if an attack within r finds no other class (Palumbo, Goyal, Chen, Wu &
Jha 2024, "Two heads are actually better than one", after Tramèr 2022).

With y the predicted class and x'' the images that an inner attack visits in B(x, r),

    s(x) = max_{x''} max_{k != y} z_k(x'') - z_y(x''),        null if s(x) > 0.

This is :class:`nullclass.rejection.ProvableNull` with an attack in the place of the proof. If f is
constant on B(x, eps / 2) and r = eps / 2, an accepted wrong answer within eps means that the inner
attack has missed x. So nothing is proved, and the inner attack must be strong.

The inner attack is projected gradient ascent on the logsumexp margin, from the image and from
random starts; its steps fall from r to 0 by a cosine. The starts are drawn from a fixed seed, the
same for every image, so the score is deterministic.

An attacker gets one of two gradients of s. Detached: that of the margin at the worst x'', whose
offset x'' - x is taken as constant. Unrolled: through all inner steps; the sign of an L-infinity
step has the gradient of its argument, scaled to mean 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nullclass.attacks.losses import LossName, find_objective
from nullclass.core.checks import check_count, check_positive, check_seed
from nullclass.core.norms import find_ball
from nullclass.models.classifier import Classifier, check_classifier
from nullclass.rejection.reject_by import DetectingClassifier, with_gradient_of

OBJECTIVE = find_objective("untargeted")


class Consistency(nn.Module):
    """The score; arguments as for :class:`ConsistentNull`."""

    def __init__(
        self,
        classifier: Classifier,
        radius: float,
        *,
        norm: str = "linf",
        num_steps: int = 10,
        num_restarts: int = 0,
        is_unrolled: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.classifier = check_classifier(classifier)
        self.radius = check_positive("radius", radius)
        self.norm, self.ball = norm, find_ball(norm)
        self.num_steps = check_count("num_steps", num_steps)
        self.num_restarts = check_count("num_restarts", num_restarts, 0)
        self.is_unrolled, self.seed = is_unrolled, check_seed(seed)

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return scores ``(N,)``: the largest margin of another class that was found."""
        labels = logits.argmax(dim=1)
        if self.is_unrolled and images.requires_grad:
            return self._search(images, labels, is_unrolled=True)[1]
        found, _ = self._search(images.detach(), labels, is_unrolled=False)
        return self._margins(self.classifier(with_gradient_of(found, images)), labels, "margin")

    @torch.enable_grad()
    def _search(
        self, images: Tensor, labels: Tensor, *, is_unrolled: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the visited images with the largest margins ``(N,)``, and the margins."""
        generator = torch.Generator().manual_seed(self.seed)
        found, largest = images, torch.full_like(images[:, 0, 0, 0], -torch.inf)
        for restart in range(self.num_restarts + 1):
            x = images
            if restart:
                start = self.ball.random(images[:1].detach(), self.radius, generator)
                x = self.ball.project(images + start, images, self.radius)
            for step in range(self.num_steps + 1):
                x = x if is_unrolled else x.detach().requires_grad_()
                logits = self.classifier(x)
                margins = self._margins(logits, labels, "margin")
                is_larger = margins > largest
                found = torch.where(is_larger.view(-1, 1, 1, 1), x, found)
                largest = torch.where(is_larger, margins, largest)
                if step < self.num_steps:
                    losses = self._margins(logits, labels, "logsumexp-margin")
                    (gradient,) = torch.autograd.grad(losses.sum(), x, create_graph=is_unrolled)
                    size = self.radius * (1 + math.cos(math.pi * step / self.num_steps)) / 2
                    x = self.ball.project(
                        x + size * self._direction(gradient, x), images, self.radius
                    )
        return found, largest

    def _direction(self, gradient: Tensor, x: Tensor) -> Tensor:
        direction = self.ball.step(gradient, x)
        if self.norm != "linf" or not gradient.requires_grad:
            return direction
        mean = gradient.abs().flatten(1).mean(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
        return with_gradient_of(direction, gradient / mean.view(-1, 1, 1, 1))

    def _margins(self, logits: Tensor, labels: Tensor, loss: LossName) -> Tensor:
        return OBJECTIVE.loss(logits, labels, self.classifier.num_classes, loss)


class ConsistentNull(DetectingClassifier):
    """A classifier that predicts what an inner attack within a radius does not change, else null.

    The interface is that of :class:`nullclass.rejection.ProvableNull`, without certificates.

    Args:
        model: K classes, without null; shared, not copied, and always in evaluation mode.
        radius: r, in pixel units; best eps / 2 against attacks within eps.
        norm: ``linf``, ``l2`` or ``l1``.
        num_steps: Steps of the inner attack; each is a forward and a backward pass.
        num_restarts: Random starts after the one from the image.
        is_unrolled: Whether attackers get the gradient through the inner steps. The predictions are
            the same; the memory is that of all steps.
        seed: Seed of the random starts.

    Raises:
        UserError: If the model has null, or an argument is invalid.
    """

    detector: Consistency

    def __init__(
        self,
        model: Classifier,
        radius: float,
        *,
        norm: str = "linf",
        num_steps: int = 10,
        num_restarts: int = 0,
        is_unrolled: bool = False,
        seed: int = 0,
    ) -> None:
        score = Consistency(
            model,
            radius,
            norm=norm,
            num_steps=num_steps,
            num_restarts=num_restarts,
            is_unrolled=is_unrolled,
            seed=seed,
        )
        super().__init__(model, score)
        self.radius, self.norm = score.radius, norm
