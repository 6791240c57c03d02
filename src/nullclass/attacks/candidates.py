"""Donors: images of a pool that the model answers as the attacker would like the attacked ones."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.attacks.losses import Objective
from nullclass.core.errors import UserError
from nullclass.core.outcomes import outcomes
from nullclass.data.arrays import LabelledImages


def subsample(pool: LabelledImages | None, images: Tensor, num_donors: int) -> Tensor:
    """At most so many images of a pool, evenly spread over it, like the images ``(N, C, H, W)``.

    Without a pool, of the images themselves.

    Raises:
        UserError: If the pool's images have another shape.
    """
    size = len(images) if pool is None else len(pool)
    chosen = torch.arange(size)
    if size > num_donors:
        chosen = torch.arange(num_donors) * size // num_donors
    if pool is None:
        return images[chosen.to(images.device)]
    if pool.images.shape[1:] != images.shape[1:]:
        raise UserError(
            f"the pool's images have shape {tuple(pool.images.shape[1:])}, but those "
            f"attacked {tuple(images.shape[1:])}: give images of the same kind"
        )
    return pool.batch(chosen.to(pool.images.device))[0].to(images)


def nearest_of_each(
    distances: Tensor, answers: Tensor, labels: Tensor, objective: Objective, num_nearest: int
) -> tuple[Tensor, Tensor]:
    """The nearest donors of every answer that the attacker wants.

    Args:
        distances: ``(N, M)``, of N images under attack to M images of the pool.
        answers: ``(M,)`` what the model answers to the pool, -1 for null.
        labels: ``(N,)`` true labels.
        objective: Whose success an answer must be.
        num_nearest: Donors of every answer.

    Returns:
        ``(N, T)`` pool images for each image, nearest first, and whether they are donors.
    """
    chosen, how_far = [], []
    for answer in answers.unique():
        of_answer = (answers == answer).nonzero().squeeze(1)
        is_wanted = objective.is_reached(outcomes(answer.expand(len(labels)), labels))
        num_tried = min(num_nearest, len(of_answer))
        near = distances[:, of_answer].topk(num_tried, dim=1, largest=False)
        chosen.append(of_answer[near.indices])
        how_far.append(near.values.masked_fill(~is_wanted[:, None], torch.inf))
    ranked = torch.cat(how_far, dim=1).sort(dim=1, stable=True)
    return torch.cat(chosen, dim=1).gather(1, ranked.indices), ranked.values.isfinite()
