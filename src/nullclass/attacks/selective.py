"""Selective and orthogonal PGD: two losses, one for the classifier and one for its detector.

A model with null is a classifier that can be wrong and a detector that can refuse:

    a = max_{k != y} z_k - z_y       the classifier's, over the real classes
    b = max_{k != y} z_k - z_null    the detector's

Added up, two losses pull against each other. So each step climbs one of them: a while it is
not yet met, then b (selective); or what of its gradient is orthogonal to the other's (orthogonal),
which in first order leaves the other as it is.

    g = grad a if a <= 0 else grad b          g <- g - (g . h / |h|^2) h,  h the other gradient

(Bryniarski, Hingun, Pachuca, Wang, Carlini 2021, "Evading adversarial example detection defenses
with orthogonal projected gradient descent".) What differs: both losses are margins, whose zero is
the test of what is met, and steps are the norm's own: L-infinity's is the sign of what is
orthogonal, and no longer quite orthogonal itself. Without null there is no detector, and this is
PGD on a.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.pgd import check_step
from nullclass.attacks.state import AttackState, Margin, check_counts
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps, expand_eps, find_ball
from nullclass.models.classifier import Classifier

Variant = Literal["selective", "orthogonal"]


@dataclass(frozen=True)
class SelectivePGD:
    """PGD on the classifier's loss or the detector's, whichever is not yet met."""

    variant: Variant = "selective"
    """``orthogonal`` takes from each step what would move the other loss; it needs a second
    forward and backward pass a step."""
    num_steps: int = 40
    """Gradient steps a restart."""
    num_restarts: int = 1
    """Independent starts; the first is the clean image, the others are random in the ball."""
    relative_step: float | None = None
    """Step as a share of eps; ``None`` is 2.5 / num_steps."""
    objective: ClassVar[ObjectiveName] = "fool"
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "white-box"

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        check_counts(self.num_steps, self.num_restarts)
        check_step(self.relative_step, momentum=0)
        if self.variant not in get_args(Variant):
            raise UserError(f"there is no variant {self.variant!r}: choose selective or orthogonal")

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
        """See :class:`nullclass.attacks.base.Attack`."""
        eps = check_eps(eps, norm, images.shape)
        standing = AttackState(
            model, images, labels, eps, norm, self.objective, batch_size=batch_size
        )

        def selected(logits: Tensor, indices: Tensor) -> Tensor:
            classifier, detector = two_losses(logits, labels[indices], model.num_classes)
            return torch.where(classifier > 0, detector, classifier)

        with frozen(model):
            walk = partial(self._walk, standing)
            standing.climb([selected], self.num_restarts, generator, walk)
        return standing.adv_images

    def _walk(
        self, standing: AttackState, indices: Tensor, adv_images: Tensor, selected: Margin
    ) -> None:
        model = standing.model
        share = 2.5 / self.num_steps if self.relative_step is None else self.relative_step
        for done in range(self.num_steps + 1):
            is_last = done == self.num_steps
            _, gradient, succeeded = standing.look(indices, adv_images, selected, is_last=is_last)
            goes_on = ~succeeded & (gradient != 0).flatten(1).any(dim=1)
            if is_last or not bool(goes_on.any()):
                return
            indices, adv_images, gradient = indices[goes_on], adv_images[goes_on], gradient[goes_on]
            if self.variant == "orthogonal" and model.has_null:
                point = adv_images.detach().requires_grad_()
                classifier, detector = two_losses(
                    model(point), standing.labels[indices], model.num_classes
                )
                left_alone = torch.where(classifier > 0, classifier, detector).sum()
                (against,) = torch.autograd.grad(left_alone, point)
                gradient = _orthogonal(gradient, against)
            clean, eps = standing.images[indices], standing.eps_of(indices)
            step = share * expand_eps(eps, adv_images) * standing.norm.step(gradient, adv_images)
            adv_images = standing.norm.project(adv_images + step, clean, eps)


def two_losses(logits: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """``(N,)`` each: the classifier's margin, and the detector's.

    Both are positive exactly where the image is fooled. Without null the detector has nothing
    against any image: its margin is the classifier's.
    """
    real = logits[:, :num_classes]
    at_label = real.gather(1, labels[:, None])
    is_label = torch.zeros_like(real, dtype=torch.bool).scatter(1, labels[:, None], True)
    best = real.masked_fill(is_label, float("-inf")).amax(dim=1)
    classifier = best - at_label.squeeze(1)
    has_null = logits.shape[1] > num_classes
    return classifier, best - logits[:, num_classes] if has_null else classifier


def _orthogonal(gradient: Tensor, against: Tensor) -> Tensor:
    """What of the gradients ``(N, …)`` is orthogonal to the others, image by image."""
    unit = find_ball("l2").steepest(against, against)
    step_along = (gradient * unit).flatten(1).sum(dim=1)
    return gradient - expand_eps(step_along, gradient) * unit
