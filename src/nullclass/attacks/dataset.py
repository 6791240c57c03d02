"""Dataset attack: move a differently classified image into the ball.

    x' = project(candidate)

The candidates are the nearest reference images whose prediction is a success for the attacker. The
attack needs no gradient and hardly any queries. At the largest eps (1 in L-infinity) the ball is
the [0,1] box, x' is the candidate itself and the attack is exact: every image that can be fooled is
fooled. An attack that finds less there is broken.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import BaseAttack
from nullclass.attacks.losses import Objective, ObjectiveName
from nullclass.attacks.state import AttackState, logits_of
from nullclass.core.errors import UserError
from nullclass.core.outcomes import outcomes, predictions
from nullclass.data.arrays import LabelledImages
from nullclass.results.schema import MAX_TARGETS, Access

ORDERS = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}


@dataclass(frozen=True)
class DatasetAttack(BaseAttack):
    """Other images projected into the ball; the best of them by the margin. Deterministic.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    reference_images: LabelledImages | None = field(default=None, repr=False, compare=False)
    objective: ObjectiveName = "fool"
    num_nearest: int = 1
    """Candidates per prediction, the nearest in the norm; of more than
    :data:`nullclass.results.schema.MAX_TARGETS` predictions those of the nearest."""
    num_candidates: int = 1000
    access: ClassVar[Access] = "scores"

    def with_reference_images(self, images: LabelledImages) -> DatasetAttack:
        """See :class:`nullclass.attacks.base.TakesReferenceImages`."""
        return replace(self, reference_images=images) if self.reference_images is None else self

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        reference = subsample(self.reference_images, state.images, self.num_candidates)
        state.evaluate_clean()
        if not bool(state.active.any()):
            return
        logits = logits_of(state.model, reference, state.batch_size)
        distances = torch.cdist(
            state.images.flatten(1), reference.flatten(1), p=ORDERS[state.norm_name]
        )
        chosen, is_candidate = nearest_of_each(
            distances,
            predictions(logits, state.model.num_classes),
            state.labels,
            state.objective,
            self.num_nearest,
        )
        for candidates, usable in zip(chosen.unbind(1), is_candidate.unbind(1), strict=True):
            for batch in state.batches():
                indices = batch[usable[batch]]
                if len(indices):
                    adv_images = _into_ball(reference[candidates[indices]], indices, state)
                    state.evaluate(indices, adv_images)


def _into_ball(candidates: Tensor, indices: Tensor, state: AttackState) -> Tensor:
    """Return candidates projected; one inside the ball stays equal to the last bit."""
    images, eps = state.images[indices], state.eps_at(indices)
    is_inside = state.norm.size(candidates - images) <= torch.as_tensor(eps, dtype=images.dtype)
    projected = state.norm.project(candidates, images, eps)
    return torch.where(is_inside[:, None, None, None], candidates, projected)


def subsample(reference: LabelledImages | None, images: Tensor, num_images: int) -> Tensor:
    """Return at most ``num_images`` reference images, evenly spread, like ``images``.

    Without reference images, some of ``images`` themselves.

    Raises:
        UserError: If the reference images are no LabelledImages, or have another shape.
    """
    if not isinstance(reference, LabelledImages | None):
        raise UserError(
            f"reference_images must be LabelledImages(images, labels), not a "
            f"{type(reference).__name__}"
        )
    size = len(images) if reference is None else len(reference)
    chosen = torch.arange(size)
    if size > num_images:
        chosen = torch.arange(num_images) * size // num_images
    if reference is None:
        return images[chosen.to(images.device)]
    if reference.images.shape[1:] != images.shape[1:]:
        raise UserError(
            f"the reference images have shape {tuple(reference.images.shape[1:])}, but those under "
            f"attack {tuple(images.shape[1:])}: give images of the same shape"
        )
    return reference.batch(chosen.to(reference.images.device))[0].to(images)


def nearest_of_each(
    distances: Tensor, predicted: Tensor, labels: Tensor, objective: Objective, num_nearest: int
) -> tuple[Tensor, Tensor]:
    """Return the nearest candidates of every prediction that reaches the objective.

    Args:
        distances: ``(N, M)``, from N images under attack to M reference images.
        predicted: ``(M,)`` predictions of the reference images, -1 for null.
        labels: ``(N,)`` true labels.
        objective: What counts as success.
        num_nearest: Candidates per prediction.

    Returns:
        ``(N, T)`` indices of reference images, nearest first, and whether each is a candidate.
    """
    indices, ranks = [], []
    for prediction in predicted.unique():
        members = (predicted == prediction).nonzero().squeeze(1)
        is_wanted = objective.is_reached(outcomes(prediction.expand(len(labels)), labels))
        nearest = distances[:, members].topk(min(num_nearest, len(members)), dim=1, largest=False)
        indices.append(members[nearest.indices])
        ranks.append(nearest.values.masked_fill(~is_wanted[:, None], torch.inf))
    ranked = torch.cat(ranks, dim=1).sort(dim=1, stable=True)
    chosen = torch.cat(indices, dim=1).gather(1, ranked.indices)
    most = MAX_TARGETS * num_nearest
    return chosen[:, :most], ranked.values.isfinite()[:, :most]
