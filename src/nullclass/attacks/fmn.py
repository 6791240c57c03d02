"""FMN: the smallest eps that succeeds, per image.

A point follows the gradient of a loss in a ball that grows until something succeeds and shrinks on
success, with decreasing steps:

    eps   <- |delta| + margin / |grad|_dual, at least (1 + gamma_0) eps    no success yet
             min((1 - gamma_k) eps, the smallest success)                  on success
             (1 + gamma_k) eps                                             success lost again
    delta <- project(delta + alpha_k eps r grad / |grad|_2, eps)           r: the unit ball's
                                                                          radius in L2

(Pintor, Roli, Brendel, Biggio 2021, "Fast minimum-norm adversarial attacks through adaptive norm
constraints", algorithm 1.)

Differences: null counts as a defence. Where the box cuts off much of every step, |delta| stays
below eps and the paper's estimate stalls, so eps always grows by gamma_0 at least. Steps are
relative to eps. The objective's loss comes first, as a logsumexp margin until the first success;
then every winning answer is targeted in turn, in balls no larger than the smallest success. Each
success moves towards the clean image by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.attacks.base import BaseAttack
from nullclass.attacks.losses import LossName, ObjectiveName
from nullclass.attacks.state import AttackState, IndexedLoss
from nullclass.attacks.steps import ascend, backward, forward
from nullclass.core.modules import frozen, searched
from nullclass.core.norms import along_gradient, expand_eps
from nullclass.core.outcomes import check_finite
from nullclass.models.classifier import as_classifier
from nullclass.models.network import Body

ALPHA = 0.3
"""First step as a share of eps (alpha_0 in the paper); the last is a hundredth of it."""
GAMMA = 0.05
"""First change of eps as a share of it (gamma_0 in the paper)."""
LAST_GAMMA = 0.001
"""Last change of eps (gamma_K)."""
NUM_HALVINGS = 10
"""Bisection steps between the clean image and a success."""


@dataclass(frozen=True)
class FMN(BaseAttack):
    """Minimum-norm search, as an attack and as a distance; deterministic.

    As an attack it stops at the first success within eps, by default. Settings: see
    :class:`nullclass.attacks.base.BaseAttack`.
    """

    objective: ObjectiveName = "fool"
    loss: LossName = "logsumexp-margin"
    """What the steps maximise until the first success; after it, and for targets, the margin."""
    num_steps: int = 100
    """Gradient steps on the objective's loss, and as many towards each target."""
    num_targets: int | None = None
    is_nearest: bool = False
    """As an attack, go on to the nearest success instead of stopping at the first within eps."""

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        found = self._search(state, is_nearest=self.is_nearest)
        adv_images = state.norm.project(found.adv_images, state.images, state.eps)
        is_inside = found.sizes <= found.eps
        adv_images[is_inside] = found.adv_images[is_inside]  # without the projection's rounding
        state.adv_images = adv_images

    def smallest(
        self,
        model: Body,
        images: Tensor,
        labels: Tensor,
        *,
        norm: str,
        num_classes: int | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the nearest successes and their distances.

        Args:
            model: A :class:`nullclass.models.Classifier`, or any module or function with
                ``num_classes``.
            images: ``(N, C, H, W)`` in [0,1].
            labels: ``(N,)`` true labels.
            norm: ``linf``, ``l2`` or ``l1``.
            num_classes: K, for a module that is no Classifier.
            batch_size: Images per forward and backward pass.

        Returns:
            Adversarial images ``(N, C, H, W)``, the best one where nothing succeeds, and distances
            ``(N,)`` in pixel units: upper bounds of the smallest eps that succeeds, 0 for images
            that succeed without an attack, and inf without a success.

        Raises:
            UserError: If an argument is out of range.
        """
        model = as_classifier(model, num_classes, images)
        objective = self.objective
        state = AttackState(
            model, images, labels, eps=0.0, norm=norm, objective=objective, batch_size=batch_size
        )
        with frozen(model), searched(model):
            found = self._search(state)
        return found.adv_images, found.sizes

    def _search(self, state: AttackState, *, is_nearest: bool = True) -> _Nearest:
        found = _Nearest(state, is_nearest=is_nearest)
        if not len(state.images):
            return found
        for loss, margin in self._losses(state):
            before = found.sizes.clone()
            for indices in found.batches(found.sizes > found.enough):
                _run_steps(found, indices, loss, margin, self.num_steps)
            is_nearer = (found.sizes < before) & (found.sizes > found.enough)
            for indices in found.batches(is_nearer):
                found.bisect(indices)
        return found

    def _losses(self, state: AttackState) -> Iterator[tuple[IndexedLoss, IndexedLoss]]:
        """Yield what each run maximises until its first success, and after it."""
        yield state.loss(self.loss), state.loss("margin")
        if state.targets is not None:
            return
        for margin in state.target_losses(self.num_targets, "margin"):
            yield margin, margin


class _Nearest:
    """The nearest success of every image so far."""

    def __init__(self, state: AttackState, *, is_nearest: bool) -> None:
        self.state = state
        eps = torch.as_tensor(state.eps, dtype=state.images.dtype, device=state.images.device)
        self.eps = eps.expand(len(state.images))
        self.enough = torch.zeros_like(self.eps) if is_nearest else self.eps
        """``(N,)`` sizes at which an image needs no further search."""
        self.adv_images = state.images.clone()
        """The nearest successes, and the images with the largest margin for the rest."""
        self.sizes = torch.full_like(self.enough, torch.inf)
        self.margins = torch.full_like(self.enough, -torch.inf)

    def batches(self, chosen: Tensor) -> Iterator[Tensor]:
        """Yield the indices of the chosen images in batches."""
        yield from self.state.split(chosen.nonzero().squeeze(1))

    def update(self, indices: Tensor, adv_images: Tensor, logits: Tensor, margin: Tensor) -> Tensor:
        """Keep nearer successes, and return which images ``(N,)`` succeed."""
        check_finite(logits)
        state = self.state
        succeeded = state.is_success(indices, logits)
        sizes = state.norm.size(adv_images - state.images[indices])
        is_nearer = succeeded & (sizes < self.sizes[indices])
        is_better = (margin > self.margins[indices]) & self.sizes[indices].isinf()
        is_kept = is_nearer | (is_better & ~succeeded)
        self.adv_images[indices[is_kept]] = adv_images[is_kept]
        self.margins[indices[is_kept]] = margin[is_kept].to(self.margins)
        self.sizes[indices[is_nearer]] = sizes[is_nearer]
        return succeeded

    @torch.no_grad()
    def bisect(self, indices: Tensor) -> None:
        """Move successes towards their clean images as far as they succeed."""
        images = self.state.images[indices]
        delta = self.adv_images[indices] - images
        low, high = torch.zeros_like(self.sizes[indices]), torch.ones_like(self.sizes[indices])
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            adv_images = (images + expand_eps(middle, delta) * delta).clamp(0, 1)
            logits = self.state.model(adv_images)
            succeeded = self.update(indices, adv_images, logits, self.margins[indices])
            low = torch.where(succeeded, low, middle)
            high = torch.where(succeeded, middle, high)


def _run_steps(
    found: _Nearest, indices: Tensor, loss: IndexedLoss, margin: IndexedLoss, num_steps: int
) -> None:
    """Run all steps on one batch from its clean images."""
    state, norm = found.state, found.state.norm
    x = state.images[indices]
    farthest = norm.size(torch.maximum(x, 1 - x))
    eps, ever = torch.zeros_like(farthest), torch.zeros_like(farthest, dtype=torch.bool)
    for k in range(num_steps + 1):
        leaf = x.detach().requires_grad_(k < num_steps)
        logits = forward(state.model, leaf)
        margins = margin(logits, indices)
        succeeded = found.update(indices, x, logits.detach(), margins.detach())
        going = found.sizes[indices] > found.enough[indices]
        if k == num_steps or not bool(going.any()):
            return
        ever = ever | succeeded
        gradient = backward(torch.where(ever, margins, loss(logits, indices)), leaf)
        columns = (indices, x, gradient, margins.detach(), eps, farthest, succeeded, ever)
        indices, x, gradient, margins, eps, farthest, succeeded, ever = (c[going] for c in columns)
        images, smallest = state.images[indices], found.sizes[indices]
        decay = (1 + math.cos(math.pi * k / num_steps)) / 2
        alpha = ALPHA * (0.01 + 0.99 * decay)
        gamma = LAST_GAMMA + (GAMMA - LAST_GAMMA) * decay
        slope = (gradient * norm.steepest(gradient, x)).flatten(1).sum(dim=1)
        slope = slope.clamp(min=torch.finfo(slope.dtype).tiny)
        boundary = norm.size(x - images) + margins.abs() / slope
        grown = torch.where(ever, (1 + gamma) * eps, boundary.maximum((1 + GAMMA) * eps))
        grown = torch.where(grown > 0, grown, 1e-3 * farthest)  # on an exact tie
        eps = torch.where(succeeded, (1 - gamma) * eps, grown)
        eps = eps.minimum(farthest).minimum(smallest)
        x = ascend(x, gradient, images, eps=eps, step_size=alpha * eps, norm=along_gradient(norm))
