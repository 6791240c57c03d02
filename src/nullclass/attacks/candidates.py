"""Candidates: reference images whose prediction is a success for the attacker."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.attacks.losses import Objective
from nullclass.core.errors import UserError
from nullclass.core.outcomes import outcomes
from nullclass.data.arrays import LabelledImages


def subsample(reference: LabelledImages | None, images: Tensor, num_images: int) -> Tensor:
    """Return at most ``num_images`` reference images, evenly spread, like ``images``.

    Without reference images, some of ``images`` themselves.

    Raises:
        UserError: If the reference images have another shape.
    """
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
    return torch.cat(indices, dim=1).gather(1, ranked.indices), ranked.values.isfinite()
