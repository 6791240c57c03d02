"""Images under attack: those that stand are attacked further, those that fell are left alone.

Every iterative attack keeps its books here: who fell, the best try so far for the others, batches
of what stands, and gradients in the precision asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from nullclass.attacks.losses import Form, ObjectiveName, find_objective, is_success
from nullclass.core.devices import supports_bfloat16
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, find_ball
from nullclass.models.classifier import Classifier

Precision = Literal["float32", "bfloat16"]

Margin = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(N, …)`` and the indices ``(N,)`` of their images to what is climbed, ``(N,)``."""


def default_batch_size(images: Tensor) -> int:
    """Number of images per forward and backward pass, where the caller does not choose it.

    On a CPU a batch of MNIST stays in the caches (LOG.md); large images get smaller batches.
    """
    is_cpu = images.device.type == "cpu"
    most, num_values = (64, 2**22) if is_cpu else (1024, 2**24)
    return max(1, min(most, num_values // max(1, images[:1].numel())))


@torch.no_grad()
def logits_of(model: Classifier, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Logits of any number of images, a batch at a time."""
    batch_size = batch_size or default_batch_size(images)
    return torch.cat([model(chunk) for chunk in images.split(batch_size)])


class AttackState:
    """The books of one attack on some images."""

    def __init__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        eps: Eps,
        norm: str,
        objective: ObjectiveName,
        precision: Precision = "float32",
        batch_size: int | None = None,
    ) -> None:
        self.model = model
        self.batch_size = batch_size or default_batch_size(images)
        self.images = images.detach()
        self.labels = labels
        self.eps = eps
        self.norm = find_ball(norm)
        self.objective = find_objective(objective)
        self.is_reduced = precision == "bfloat16" and supports_bfloat16(images.device)
        self.adv_images = self.images.clone()
        """Successes, and the best tries where there is none."""
        self.is_active = torch.ones(len(images), dtype=torch.bool, device=images.device)
        self.best = torch.full((len(images),), -torch.inf, device=images.device)
        """What was climbed, at the best tries."""

    def batches(self) -> Iterator[Tensor]:
        """Indices ``(N,)`` of what stands now, a batch at a time."""
        standing = self.is_active.nonzero().squeeze(1)
        if len(standing):  # splitting nothing would give one empty batch
            yield from standing.split(self.batch_size)

    def eps_of(self, indices: Tensor) -> Eps:
        """The budgets of some images."""
        return self.eps[indices] if isinstance(self.eps, Tensor) else self.eps

    def _start(
        self, indices: Tensor, *, is_random: bool, generator: torch.Generator | None
    ) -> Tensor:
        """The clean images, or random points of their balls."""
        clean = self.images[indices]
        if not is_random:
            return clean
        eps = self.eps_of(indices)
        return self.norm.project(clean + self.norm.random(clean, eps, generator), clean, eps)

    def climb(
        self,
        margins: Sequence[Margin],
        num_restarts: int,
        generator: torch.Generator | None,
        walk: Callable[[Tensor, Tensor, Margin], None],
    ) -> None:
        """Send whatever stands on one walk from every start towards every margin.

        Args:
            margins: What to climb, one after another from each start.
            num_restarts: Starts; the first is the clean image, the others are random in the ball.
            generator: Where random starts come from.
            walk: Takes the indices ``(N,)`` of a batch, its starts ``(N, C, H, W)`` and a margin.
        """
        for restart in range(num_restarts):
            for margin in margins:
                for indices in self.batches():
                    start = self._start(indices, is_random=restart > 0, generator=generator)
                    walk(indices, start, margin)

    def margin(self, form: Form) -> Margin:
        """The objective's margin, for images by their indices."""
        return lambda logits, indices: self.objective.margin(
            logits, self.labels[indices], self.model.num_classes, form
        )

    def look(
        self, indices: Tensor, adv_images: Tensor, margin: Margin, *, is_last: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Ask the model about images, and keep successes and the best tries.

        Args:
            indices: ``(N,)`` which images they are.
            adv_images: ``(N, C, H, W)``, within the budget.
            margin: What to climb.
            is_last: Whether no step follows: then no gradient is taken, and the look is exact.

        Returns:
            Margins ``(N,)``, their gradients (zeros at the last look), and which fell ``(N,)``.
        """
        adv_images = adv_images.detach().requires_grad_(not is_last)
        is_reduced = self.is_reduced and not is_last
        with torch.autocast(adv_images.device.type, torch.bfloat16, enabled=is_reduced):
            logits = self.model(adv_images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        climbed = margin(logits, indices)
        succeeded = self._record(indices, adv_images.detach(), logits.detach(), climbed, is_reduced)
        if is_last or bool(succeeded.all()):
            return climbed.detach(), torch.zeros_like(adv_images), succeeded
        (gradient,) = torch.autograd.grad(climbed.sum(), adv_images)
        return climbed.detach(), gradient, succeeded

    def try_out(self, indices: Tensor, adv_images: Tensor, margin: Margin) -> tuple[Tensor, Tensor]:
        """As :meth:`look`, without a gradient: margins and which fell, both ``(N,)``."""
        with torch.no_grad():
            climbed, _, succeeded = self.look(indices, adv_images, margin, is_last=True)
        return climbed, succeeded

    def try_clean(self, margin: Margin) -> None:
        """Try the clean images out: what fell needs no attack, the rest has a best try."""
        for indices in self.batches():
            self.try_out(indices, self.images[indices], margin)

    def _record(
        self,
        indices: Tensor,
        adv_images: Tensor,
        logits: Tensor,
        climbed: Tensor,
        is_reduced: bool,
    ) -> Tensor:
        num_classes = self.model.num_classes
        succeeded = is_success(logits, self.labels[indices], num_classes, self.objective)
        if is_reduced and bool(succeeded.any()):
            apparent = succeeded.nonzero().squeeze(1)
            with torch.no_grad():
                exact = self.model(adv_images[apparent])
            succeeded[apparent] = is_success(
                exact, self.labels[indices[apparent]], num_classes, self.objective
            )
        climbed = climbed.detach().to(self.best)
        is_kept = succeeded | (climbed > self.best[indices])
        self.adv_images[indices[is_kept]] = adv_images[is_kept]
        self.best[indices[is_kept]] = climbed[is_kept]
        self.is_active[indices[succeeded]] = False
        return succeeded


def check_precision(precision: str) -> None:
    """Refuse a precision that does not exist.

    Raises:
        UserError: If it is unknown.
    """
    if precision not in get_args(Precision):
        raise UserError(f"there is no precision {precision!r}: choose float32 or bfloat16")


def check_counts(num_steps: int, num_restarts: int) -> None:
    """Refuse an attack that does nothing.

    Raises:
        UserError: If there is no step or no start.
    """
    if num_steps < 1 or num_restarts < 1:
        raise UserError(
            f"an attack needs at least one step and one restart, not {num_steps} and {num_restarts}"
        )
