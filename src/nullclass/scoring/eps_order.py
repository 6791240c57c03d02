"""The order of the eps at which a batch is attacked, and the images attacked at each.

- Single steps and transfers attack every image at every eps.
- Iterative attacks start with the smallest eps. An image that succeeds is not attacked again: its
  adversarial image counts at every larger eps.
- Ensembles with ``largest_eps_first`` start with the largest eps. An image that survives there is
  not attacked at a smaller eps, whose ball the larger one contains; one that succeeds goes on to
  the next smaller eps. There its adversarial image, projected into the smaller ball, is tried
  first. So an image costs at most one ensemble that fails, however many eps there are.

In the latter two orders, attacks with the objective ``fool`` leave out images that are proved never
to be fooled at that eps, except for an audit (:mod:`nullclass.scoring.audit`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nullclass.core.norms import Eps, find_ball
from nullclass.scoring.attack_batch import AttackedBatch, BatchAttack


def attack_at_every_eps(batch: BatchAttack, on_eps: Callable[[], None]) -> list[AttackedBatch]:
    """Attack a batch and return it at every eps, increasing.

    Args:
        batch: The batch; what it has finished already is not repeated.
        on_eps: Called after each eps.

    Raises:
        UserError: If the attack leaves its budget or the [0,1] box.
    """
    budgets, choose = list(batch.budgets), _all
    is_largest_first = batch.clean is not None and getattr(batch.attack, "largest_eps_first", False)
    if is_largest_first:
        budgets, choose = budgets[::-1], _largest_first
    elif batch.clean is not None:
        choose = _smallest_first
    for number, eps in enumerate(budgets):
        if number >= len(batch.finished):
            batch.attack_at(eps, *choose(batch, eps))
        on_eps()
    return _carried(batch) if is_largest_first else batch.finished


def _all(batch: BatchAttack, eps: Eps) -> tuple[Tensor, Tensor]:
    return torch.ones_like(batch.labels, dtype=torch.bool), batch.images


def _smallest_first(batch: BatchAttack, eps: Eps) -> tuple[Tensor, Tensor]:
    return ~batch.is_success(), batch.adv_images


def _largest_first(batch: BatchAttack, eps: Eps) -> tuple[Tensor, Tensor]:
    if not batch.finished:
        return _smallest_first(batch, eps)
    projected = find_ball(batch.norm).project(batch.adv_images, batch.images, eps)
    return batch.is_success() & ~batch.is_success(batch.score(projected)), projected


def _carried(batch: BatchAttack) -> list[AttackedBatch]:
    """Return the batch at every eps, increasing, where a success counts at every larger eps.

    An image that survived at an eps may succeed when it is projected into a smaller ball.
    """
    smallest, *others = reversed(batch.finished)
    carried = [smallest]
    for large in others:
        small = carried[-1]
        chosen = (batch.is_success(small.answers) & ~batch.is_success(large.answers)).cpu()
        carried.append(_merged(small, large, chosen))
    return carried


def _merged(small: AttackedBatch, large: AttackedBatch, chosen: Tensor) -> AttackedBatch:
    """Return a batch at its eps with the chosen images ``(N,)`` of the batch at a smaller eps."""
    answers = large.answers.copy()
    answers.loc[chosen.numpy()] = small.answers.loc[chosen.numpy()]
    pairs = zip(chosen.tolist(), small.members, large.members, strict=True)
    num_returned = len(large.adv_images)
    is_shown = chosen[:num_returned].view(-1, 1, 1, 1)
    return replace(
        large,
        answers=answers,
        members=[of_small if is_chosen else of_large for is_chosen, of_small, of_large in pairs],
        attacked_eps=torch.where(chosen, small.attacked_eps, large.attacked_eps),
        adv_images=torch.where(is_shown, small.adv_images, large.adv_images),
    )
