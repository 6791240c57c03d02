"""Swap: put an image that the model answers differently as far into the ball as it goes.

    x' = project(donor),    donor = the nearest pool image whose answer is what the attacker wants

It needs no gradient and hardly any queries. At the largest eps (1 in L-infinity) the ball is the
whole box, x' is the donor itself, and the attack is exact: whoever can be fooled at all is fooled.
An attack that finds less there has gone wrong somewhere, whatever it says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, frozen
from nullclass.attacks.candidates import nearest_of_each, subsample
from nullclass.attacks.losses import ObjectiveName, find_objective
from nullclass.attacks.state import AttackState, logits_of
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps
from nullclass.core.outcomes import predictions
from nullclass.data.arrays import LabelledImages
from nullclass.models.classifier import Classifier

_ORDERS = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}


@dataclass(frozen=True)
class DatasetAttack:
    """Other images, projected into the ball; the best of them by the hard margin."""

    pool: LabelledImages | None = field(default=None, repr=False, compare=False)
    """Where donors come from; what counts is the model's answer, not their label. ``None`` takes
    the images under attack themselves, so that the result hangs on how they are batched; give a
    pool, as ``nullclass.evaluation.run`` does with its test images, and it does not."""
    objective: ObjectiveName = "fool"
    """What the attacker wants: donors of another real class, of null (deny) or both (evade)."""
    num_nearest: int = 1
    """Donors tried of every answer, the nearest in the norm first."""
    num_donors: int = 1000
    """Pool images looked at, at most; a larger pool is thinned out evenly."""
    is_iterative: ClassVar[bool] = True
    access: ClassVar[Access] = "scores"

    def __post_init__(self) -> None:
        """Refuse settings that do nothing."""
        if self.num_nearest < 1 or self.num_donors < 1:
            raise UserError(
                "swap needs at least one donor to look at and one to try, not "
                f"{self.num_donors} and {self.num_nearest}"
            )
        find_objective(self.objective)

    def with_reference_images(self, pool: LabelledImages) -> DatasetAttack:
        """See :class:`nullclass.attacks.base.TakesReferenceImages`; a pool of one's own is kept."""
        return replace(self, pool=pool) if self.pool is None else self

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

        Raises:
            UserError: Also if the pool's images have another shape.
        """
        eps = check_eps(eps, norm, images.shape)
        standing = AttackState(
            model, images, labels, eps, norm, self.objective, batch_size=batch_size
        )

        nearness = standing.margin("hard")
        pool = subsample(self.pool, standing.images, self.num_donors)
        with frozen(model):
            standing.try_clean(nearness)
            if not bool(standing.is_active.any()):
                return standing.adv_images
            answers = predictions(logits_of(model, pool), model.num_classes)
            distances = torch.cdist(standing.images.flatten(1), pool.flatten(1), p=_ORDERS[norm])
            chosen, is_donor = nearest_of_each(
                distances, answers, labels, standing.objective, self.num_nearest
            )
            for candidates, is_there in zip(
                chosen.unbind(dim=1), is_donor.unbind(dim=1), strict=True
            ):
                for standing_now in standing.batches():
                    indices = standing_now[is_there[standing_now]]
                    if len(indices):
                        tried = _into_ball(pool[candidates[indices]], indices, standing)
                        standing.try_out(indices, tried, nearness)
        return standing.adv_images


def _into_ball(candidates: Tensor, indices: Tensor, standing: AttackState) -> Tensor:
    """Donors projected; one that is in the ball stays as it is, to the last bit."""
    clean, eps = standing.images[indices], standing.eps_of(indices)
    is_inside = standing.norm.size(candidates - clean) <= torch.as_tensor(eps).to(clean)
    projected = standing.norm.project(candidates, clean, eps)
    return torch.where(is_inside[:, None, None, None], candidates, projected)
