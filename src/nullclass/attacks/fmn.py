"""Minimum norm: the smallest eps that succeeds, image by image.

A point climbs a margin in a ball that grows while nothing has succeeded and shrinks on
success, both steps ever smaller:

    eps   <- |delta| + margin / |grad|_dual, at least (1 + gamma_0) eps    nothing found yet
             min((1 - gamma_k) eps, the smallest found)                    at a success
             (1 + gamma_k) eps                                             lost it again
    delta <- project(delta + alpha_k eps r grad / |grad|_2, eps)           r: the unit ball's
                                                                          radius in L2

(FMN: Pintor, Roli, Brendel, Biggio 2021, "Fast minimum-norm adversarial attacks through adaptive
norm constraints", algorithm 1.)

What differs: the margins count null as a defence. Where the box takes much of every step, |delta|
stays below eps and the paper's estimate stalls: so eps always grows by gamma_0 at least. Steps
are relative to eps, not absolute. The objective's margin comes first, until the first success
in its smooth form; then every winning answer is aimed at in turn, in balls no larger than what was
found. Each find is drawn towards the clean image as far as it succeeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.losses import (
    Form,
    ObjectiveName,
    check_form,
    find_objective,
    is_success,
)
from nullclass.attacks.multi_targeted_pgd import check_num_targets
from nullclass.attacks.state import Margin, check_counts, default_batch_size, logits_of
from nullclass.core.norms import Eps, check_eps, expand_eps, find_ball
from nullclass.models.classifier import Classifier

ALPHA = 0.3
"""First step as a share of eps (alpha_0 in the paper); the last is a hundredth of it."""
GAMMA = 0.05
"""First change of eps as a share of it (gamma_0 in the paper)."""
LAST_GAMMA = 0.001
"""Last change of eps (gamma_K)."""
NUM_HALVINGS = 10
"""Halvings of the line between the clean image and a find."""


@dataclass(frozen=True)
class FMN:
    """The nearest success there is, as an attack and as a distance."""

    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    form: Form = "smooth"
    """Of the objective's margin until the first success; after it, and for targets, it is hard."""
    num_steps: int = 100
    """Gradient steps on the objective's margin, and as many towards each target."""
    num_targets: int | None = None
    """How many of the nearest answers are aimed at after that; ``None`` is all of them."""
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "white-box"

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        check_counts(self.num_steps, num_restarts=1)
        find_objective(self.objective)
        check_form(self.form)
        check_num_targets(self.num_targets)

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """See :class:`nullclass.attacks.base.Attack`; deterministic.

        An image is done as soon as a success within eps is found. What is found outside only is
        projected into the ball.
        """
        eps = check_eps(eps, norm, images.shape)
        found = self._search(model, images, labels, norm, enough=eps, batch_size=batch_size)
        adv_images = found.norm.project(found.adv_images, found.images, eps)
        is_inside = found.sizes <= found.enough
        adv_images[is_inside] = found.adv_images[is_inside]  # untouched by rounding
        return adv_images

    def smallest(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        norm: str,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The nearest successes found, and how far they are.

        Args:
            model: The model to attack.
            images: ``(N, C, H, W)`` in [0,1].
            labels: ``(N,)`` true labels.
            norm: ``linf``, ``l2`` or ``l1``.
            generator: Not used: nothing here is random.
            batch_size: Images per forward and backward pass.

        Returns:
            Attacked images ``(N, C, H, W)``, the best try where there is no success, and their
            sizes ``(N,)`` in pixel units: an upper bound on the smallest eps that succeeds, 0 for
            images that need no attack, and inf where nothing was found.

        Raises:
            UserError: If the norm is unknown.
        """
        found = self._search(model, images, labels, norm, enough=0.0, batch_size=batch_size)
        return found.adv_images, found.sizes

    def _search(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        norm: str,
        enough: Eps,
        batch_size: int | None,
    ) -> _Found:
        found = _Found(model, images, labels, norm, self.objective, enough, batch_size)
        if not len(images):
            return found
        with frozen(model):
            for soft, hard in self._margins(found):
                before = found.sizes.clone()
                for indices in found.batches():
                    _walk(found, indices, soft, hard, self.num_steps)
                is_drawn = (found.sizes < before) & (found.sizes > found.enough)
                for indices in is_drawn.nonzero().squeeze(1).split(found.at_once):
                    found.draw_in(indices)
        return found

    def _margins(self, found: _Found) -> Iterator[tuple[Margin, Margin]]:
        """What is climbed until a success and after it, one pair for each walk."""
        objective, labels, num_classes = found.objective, found.labels, found.model.num_classes

        def soft(logits: Tensor, indices: Tensor) -> Tensor:
            return objective.margin(logits, labels[indices], num_classes, self.form)

        def hard(logits: Tensor, indices: Tensor) -> Tensor:
            return objective.margin(logits, labels[indices], num_classes, "hard")

        yield soft, hard
        ranked = objective.targets(logits_of(found.model, found.images), labels, num_classes)
        for targets in ranked[:, : self.num_targets].unbind(dim=1):

            def towards(logits: Tensor, indices: Tensor, at: Tensor = targets) -> Tensor:
                return objective.target_margin(
                    logits, labels[indices], at[indices], num_classes, "hard"
                )

            yield towards, towards


class _Found:
    """The books of one search: the nearest success of every image so far."""

    def __init__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        norm: str,
        objective: ObjectiveName,
        enough: Eps,
        batch_size: int | None,
    ) -> None:
        self.model = model
        self.images = images.detach()
        self.labels = labels
        self.norm = find_ball(norm)
        self.objective = find_objective(objective)
        self.at_once = batch_size or default_batch_size(images)
        self.enough = torch.as_tensor(enough).to(self.images).expand(len(images))
        """``(N,)`` sizes at which an image is searched no further."""
        self.adv_images = self.images.clone()
        """The nearest successes, and the tries with the largest margin where there is none."""
        self.sizes = torch.full_like(self.enough, torch.inf)
        self.margins = torch.full_like(self.enough, -torch.inf)

    def batches(self) -> Iterator[Tensor]:
        """Indices ``(N,)`` of what is still searched, a batch at a time."""
        wanted = (self.sizes > self.enough).nonzero().squeeze(1)
        if len(wanted):
            yield from wanted.split(self.at_once)

    def record(self, indices: Tensor, adv_images: Tensor, logits: Tensor, margin: Tensor) -> Tensor:
        """Keep what is nearer, and tell which of the images ``(N,)`` are successes."""
        labels, num_classes = self.labels[indices], self.model.num_classes
        is_found = is_success(logits, labels, num_classes, self.objective)
        sizes = self.norm.size(adv_images - self.images[indices])
        is_nearer = is_found & (sizes < self.sizes[indices])
        is_better = (margin > self.margins[indices]) & self.sizes[indices].isinf()
        is_kept = is_nearer | (is_better & ~is_found)
        self.adv_images[indices[is_kept]] = adv_images[is_kept]
        self.margins[indices[is_kept]] = margin[is_kept].to(self.margins)
        self.sizes[indices[is_nearer]] = sizes[is_nearer]
        return is_found

    def draw_in(self, indices: Tensor) -> None:
        """Move finds towards their clean images as far as they succeed, by bisection."""
        clean, way = self.images[indices], self.adv_images[indices] - self.images[indices]
        low, high = torch.zeros_like(self.sizes[indices]), torch.ones_like(self.sizes[indices])
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            tried = (clean + expand_eps(middle, way) * way).clamp(0, 1)
            with torch.no_grad():
                logits = self.model(tried)
            is_found = self.record(indices, tried, logits, self.margins[indices])
            low, high = torch.where(is_found, low, middle), torch.where(is_found, middle, high)


def _walk(found: _Found, indices: Tensor, soft: Margin, hard: Margin, num_steps: int) -> None:
    """Walk one batch from its clean images; what comes of it is kept in ``found``."""
    norm, at = found.norm, found.images[indices]
    num_pixels = at[0].numel()
    widest = max(1.0, math.sqrt(num_pixels) / norm.largest(num_pixels))  # L2 radius of a unit ball
    farthest = norm.size(torch.maximum(at, 1 - at))
    eps, was_found = torch.zeros_like(farthest), torch.zeros_like(farthest, dtype=torch.bool)
    for done in range(num_steps + 1):
        point = at.detach().requires_grad_(done < num_steps)
        logits = found.model(point)
        margin = hard(logits, indices)
        is_found = found.record(indices, at, logits.detach(), margin.detach())
        goes_on = found.sizes[indices] > found.enough[indices]
        if done == num_steps or not bool(goes_on.any()):
            return
        was_found = was_found | is_found
        climbed = torch.where(was_found, margin, soft(logits, indices))
        (gradient,) = torch.autograd.grad(climbed.sum(), point)
        indices, at, gradient, margin, eps, farthest, is_found, was_found = (
            values[goes_on]
            for values in (
                indices,
                at,
                gradient,
                margin.detach(),
                eps,
                farthest,
                is_found,
                was_found,
            )
        )
        clean, smallest = found.images[indices], found.sizes[indices]
        left = (1 + math.cos(math.pi * done / num_steps)) / 2
        alpha = ALPHA * (0.01 + 0.99 * left)
        gamma = LAST_GAMMA + (GAMMA - LAST_GAMMA) * left
        climb = (gradient * norm.steepest(gradient, at)).flatten(1).sum(dim=1)
        ahead = norm.size(at - clean) + margin.abs() / climb.clamp(
            min=torch.finfo(climb.dtype).tiny
        )
        eps = torch.where(
            is_found,
            (1 - gamma) * eps,
            torch.where(was_found, (1 + gamma) * eps, ahead.maximum((1 + GAMMA) * eps)),
        )
        eps = eps.minimum(farthest).minimum(smallest)
        step = expand_eps(alpha * eps * widest, at) * find_ball("l2").steepest(gradient, at)
        at = norm.project(at + step, clean, eps)
