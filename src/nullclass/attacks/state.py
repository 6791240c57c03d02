"""State shared by all iterative attacks: which images succeeded, and the best ones so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from nullclass.attacks.losses import (
    LossName,
    ObjectiveName,
    chosen_loss,
    find_objective,
    is_success,
)
from nullclass.attacks.steps import Loss, backward, forward
from nullclass.core.checks import check_count
from nullclass.core.devices import default_batch_size, supports_bfloat16
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps, find_ball
from nullclass.core.outcomes import NULL_LABEL, check_finite, predictions
from nullclass.data.arrays import checked_images, checked_labels
from nullclass.models.classifier import Classifier
from nullclass.results.schema import MAX_TARGETS

Precision = Literal["float32", "bfloat16"]

IndexedLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits ``(N, L)`` and the indices ``(N,)`` of their images to losses ``(N,)``."""


@torch.no_grad()
def logits_of(model: Classifier, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Return the logits of any number of images, computed in batches."""
    batch_size = batch_size or default_batch_size(images)
    logits = torch.cat([model(batch) for batch in images.split(batch_size)])
    check_finite(logits)
    return logits


class AttackState:
    """Adversarial images, active images and best losses of one attack.

    An image is active until its objective is reached; then it leaves the batches. Arguments as in
    an attack's call (:class:`nullclass.attacks.base.Attack`).

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str,
        objective: ObjectiveName,
        precision: Precision = "float32",
        batch_size: int | None = None,
    ) -> None:
        images, labels = checked_images(images), checked_labels(labels)
        devices = {images.device, labels.device, model.mean.device}
        if len(devices) > 1:
            found = ", ".join(sorted(map(str, devices)))
            raise UserError(f"model, images and labels are on {found}: move them to one device")
        _check_labels(images, labels, model.num_classes)
        if objective == "force-null" and not model.has_null:
            raise UserError("objective force-null needs a model with a null class")
        eps = check_eps(eps, norm, images.shape)
        self.model = model
        self.images = images
        self.labels = labels
        self.eps = eps.to(images) if isinstance(eps, Tensor) else eps
        self.norm_name, self.norm = norm, find_ball(norm)
        self.objective = find_objective(objective)
        self.batch_size = default_batch_size(images)
        if batch_size is not None:
            self.batch_size = check_count("batch_size", batch_size)
        self.uses_autocast = precision == "bfloat16" and supports_bfloat16(images.device)
        self.targets: Tensor | None = None
        """``(N,)`` classes that alone count as success, for attacks with chosen targets."""
        self.adv_images = self.images.clone()
        """Successes, and the images with the largest margin for the rest."""
        self.num_begun = len(images)
        """Images that the attack, or the ensemble that it is a member of, began with."""
        self.active = torch.ones(len(images), dtype=torch.bool, device=images.device)
        self.best = torch.full((len(images),), -torch.inf, device=images.device)
        """The margin at ``adv_images``, comparable between losses and restarts."""

    def batches(self) -> Iterator[Tensor]:
        """Yield the indices of the images that are active now, in batches ``(N,)``."""
        yield from self.split(self.active.nonzero().squeeze(1))

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Return indices or images in batches; nothing is no batch, not an empty one."""
        return values.split(self.batch_size) if len(values) else ()

    def nearest_to_success(self) -> Tensor:
        """Return the indices of the active images, largest margin so far first."""
        active = self.active.nonzero().squeeze(1)
        return active[self.best[active].argsort(descending=True, stable=True)]

    def eps_at(self, indices: Tensor) -> Eps:
        """Return the budgets of some images."""
        return self.eps[indices] if isinstance(self.eps, Tensor) else self.eps

    def random_start(self, indices: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return random points ``(N, C, H, W)`` of the balls of some images."""
        return self.random_near(self.images[indices], 1.0, indices, generator)

    def random_near(
        self, points: Tensor, share: float, indices: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Return random points within a share of eps of others, in the balls of their images."""
        images, eps = self.images[indices], self.eps_at(indices)
        noise = share * self.norm.random(images, eps, generator)
        return self.norm.project(points + noise, images, eps)

    def loss(self, name: LossName) -> IndexedLoss:
        """Return the objective's loss, or that towards chosen targets if there are any."""
        if self.targets is not None:
            chosen = self.targets.where(self.targets >= 0, self.model.num_classes)
            return lambda logits, indices: chosen_loss(logits, chosen[indices], name)
        return lambda logits, indices: self.objective.loss(
            logits, self.labels[indices], self.model.num_classes, name
        )

    def loss_at(self, name: LossName, indices: Tensor) -> Loss:
        """Return the objective's loss for the logits of some images."""
        return lambda logits: self.loss(name)(logits, indices)

    def target_loss(self, targets: Tensor, name: LossName) -> IndexedLoss:
        """Return the loss towards one target logit ``(N,)`` per image."""
        return lambda logits, indices: self.objective.target_loss(
            logits, self.labels[indices], targets[indices], self.model.num_classes, name
        )

    def target_losses(self, num_targets: int | None, name: LossName) -> list[IndexedLoss]:
        """Return one loss per rank of target, largest clean logit first.

        Args:
            num_targets: How many targets. Default: all, and of more than
                :data:`nullclass.results.schema.MAX_TARGETS` so many.
            name: Name of the loss.
        """
        logits = logits_of(self.model, self.images, self.batch_size)
        ranked = self.objective.rank_targets(logits, self.labels, self.model.num_classes)
        chosen = ranked[:, : MAX_TARGETS if num_targets is None else num_targets]
        return [self.target_loss(targets, name) for targets in chosen.unbind(1)]

    def forward_backward(
        self, indices: Tensor, adv_images: Tensor, loss: IndexedLoss
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate images and return their gradients; keep successes and the best images.

        Args:
            indices: ``(N,)``, which images they are.
            adv_images: ``(N, C, H, W)``, within the budget.
            loss: What the attack maximises.

        Returns:
            Losses ``(N,)``, their gradients ``(N, C, H, W)`` (zeros if all images succeed, as
            none needs a step), and successes ``(N,)``.

        Raises:
            nullclass.attacks.steps.NoGradientError: If the model detaches the images.
        """
        adv_images = adv_images.detach().requires_grad_()
        with torch.autocast(adv_images.device.type, torch.bfloat16, enabled=self.uses_autocast):
            logits = forward(self.model, adv_images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = loss(logits, indices)
        succeeded = self._update(indices, adv_images, logits, confirm=self.uses_autocast)
        if bool(succeeded.all()):
            return losses.detach(), torch.zeros_like(adv_images), succeeded
        return losses.detach(), backward(losses, adv_images), succeeded

    @torch.no_grad()
    def evaluate(self, indices: Tensor, adv_images: Tensor) -> Tensor:
        """Return the logits of images of one batch; keep successes and the best images."""
        logits: Tensor = self.model(adv_images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        self._update(indices, adv_images, logits)
        return logits

    def evaluate_all(self, indices: Tensor, adv_images: Tensor) -> None:
        """Evaluate any number of images, in batches."""
        for part, images in zip(self.split(indices), self.split(adv_images), strict=True):
            self.evaluate(part, images)

    def evaluate_clean(self) -> None:
        """Evaluate clean images that are not yet, so that those that succeed are not attacked."""
        new = (self.active & self.best.isneginf()).nonzero().squeeze(1)
        self.evaluate_all(new, self.images[new])

    def attack_some(
        self,
        attack: Callable[..., Tensor],
        model: Classifier,
        chosen: Tensor,
        generator: torch.Generator | None,
        eps: Eps | None = None,
    ) -> Tensor:
        """Return an attack's images for some of the images, on any model of the same classes.

        ``eps`` is another budget, a number or ``(M,)`` for M chosen images.
        """
        device, eps = model.mean.device, self.eps_at(chosen) if eps is None else eps
        adv_images = attack(
            model,
            self.images[chosen].to(device),
            self.labels[chosen].to(device),
            eps=eps.to(device) if isinstance(eps, Tensor) else eps,
            norm=self.norm_name,
            generator=generator,
            batch_size=self.batch_size,
        )
        return adv_images.to(self.images)

    @torch.no_grad()
    def _update(
        self, indices: Tensor, adv_images: Tensor, logits: Tensor, confirm: bool = False
    ) -> Tensor:
        check_finite(logits)
        adv_images, logits = adv_images.detach(), logits.detach()
        margins = self.loss("margin")(logits, indices).to(self.best)
        succeeded = self.is_success(indices, logits)
        if confirm and bool(succeeded.any()):
            apparent = succeeded.nonzero().squeeze(1)
            exact = self.model(adv_images[apparent])
            succeeded[apparent] = self.is_success(indices[apparent], exact)
        is_kept = succeeded | (margins > self.best[indices])
        self.adv_images[indices[is_kept]] = adv_images[is_kept]
        self.best[indices[is_kept]] = margins[is_kept]
        self.active[indices[succeeded]] = False
        return succeeded

    def is_success(self, indices: Tensor, logits: Tensor) -> Tensor:
        """Return which images ``(N,)`` reach the objective, or their chosen targets."""
        num_classes = self.model.num_classes
        if self.targets is not None:
            return predictions(logits, num_classes) == self.targets[indices]
        return is_success(logits, self.labels[indices], num_classes, self.objective)


def _check_labels(images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise UserError unless there is one real label per image."""
    if labels.shape != images.shape[:1]:
        raise UserError(f"there are {len(images)} images, but labels of {tuple(labels.shape)}")
    if not len(images):
        return
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise UserError(
            f"labels range from {low} to {high}, but the model's classes from 0 to "
            f"{num_classes - 1}"
        )


def check_targets(targets: int | Tensor, labels: Tensor, model: Classifier) -> Tensor:
    """Return chosen targets as ``(N,)`` labels, or raise UserError if they make no sense.

    One target for all images may be the true label of some; one per image may not.
    """
    chosen = torch.as_tensor(targets, device=labels.device)
    if chosen.dtype == torch.bool or chosen.is_floating_point() or chosen.is_complex():
        raise UserError(f"targets must be integers, not {chosen.dtype}")
    chosen = chosen.long()
    if chosen.ndim and chosen.shape != labels.shape:
        raise UserError(
            f"there are {len(labels)} images, but targets of {tuple(chosen.shape)}: give one "
            "target, or one per image"
        )
    lowest = NULL_LABEL if model.has_null else 0
    if bool(((chosen < lowest) | (chosen >= model.num_classes)).any()):
        null = ", or -1 for null" if model.has_null else ""
        raise UserError(f"targets must be from 0 to {model.num_classes - 1}{null}")
    if chosen.ndim and bool((chosen == labels).any()):
        raise UserError("a target must differ from the image's true label")
    return chosen.expand(len(labels))
