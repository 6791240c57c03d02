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

from nullclass.attacks.base import Access, BaseAttack
from nullclass.attacks.candidates import nearest_of_each, subsample
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState, logits_of
from nullclass.core.outcomes import predictions
from nullclass.data.arrays import LabelledImages

ORDERS = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}


@dataclass(frozen=True)
class DatasetAttack(BaseAttack):
    """Other images projected into the ball; the best of them by the margin. Deterministic."""

    reference_images: LabelledImages | None = field(default=None, repr=False, compare=False)
    """Images to choose candidates from, by the model's prediction and not by their label. ``None``
    takes the images under attack, and the result then depends on the batch; evaluations give their
    test images."""
    objective: ObjectiveName = "fool"
    """What the attacker wants."""
    num_nearest: int = 1
    """Candidates per prediction, the nearest in the norm."""
    num_candidates: int = 1000
    """Reference images considered, at most; more are subsampled evenly."""
    access: ClassVar[Access] = "scores"

    def with_reference_images(self, images: LabelledImages) -> DatasetAttack:
        """See :class:`nullclass.attacks.base.TakesReferenceImages`."""
        return replace(self, reference_images=images) if self.reference_images is None else self

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        loss = state.loss("margin")
        reference = subsample(self.reference_images, state.images, self.num_candidates)
        state.evaluate_clean(loss)
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
                    state.evaluate(indices, adv_images, loss)


def _into_ball(candidates: Tensor, indices: Tensor, state: AttackState) -> Tensor:
    """Return candidates projected; one inside the ball stays equal to the last bit."""
    images, eps = state.images[indices], state.eps_at(indices)
    is_inside = state.norm.size(candidates - images) <= torch.as_tensor(eps, dtype=images.dtype)
    projected = state.norm.project(candidates, images, eps)
    return torch.where(is_inside[:, None, None, None], candidates, projected)
