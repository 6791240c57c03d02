"""What an attacker wants: a test of success, and a margin to climb towards it.

For logits z, true label y, and null index K (all over the K real classes unless said):

    fool:   max_{k != y} z_k  -  max(z_y, z_null)       another real class is answered
    deny:   z_null            -  max_k z_k              null is answered
    evade:  max_{k != y, or null} z_k  -  z_y           anything but the true label

Each margin is positive exactly on success. In the smooth form every max is a logsumexp: its
gradient sees all classes at once (study: ``docs/evaluation.md``), but its sign is no proof of
success, so success is always the outcome's own test. Without a null logit, fool is evade.
Sources: Carlini & Wagner 2017 (margins); Sheikholeslami et al. 2021 (abstain as a class to beat).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from nullclass.errors import UserError
from nullclass.outcomes import Outcome, outcomes, predictions

Form = Literal["hard", "smooth"]
ObjectiveName = Literal["fool", "deny", "evade"]
_EXCLUDED = float("-inf")


def _max(logits: Tensor, form: Form) -> Tensor:
    return logits.logsumexp(dim=1) if form == "smooth" else logits.amax(dim=1)


def _is_true(logits: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(labels, logits.shape[1]).bool()


def fool_margin(logits: Tensor, labels: Tensor, num_classes: int, form: Form) -> Tensor:
    """``(N,)``: best wrong real class over the better of true label and null."""
    is_kept = _is_true(logits, labels)
    is_kept[:, num_classes:] = True
    wrong = _max(logits.masked_fill(is_kept, _EXCLUDED), form)
    return wrong - _max(logits.masked_fill(~is_kept, _EXCLUDED), form)


def deny_margin(logits: Tensor, labels: Tensor, num_classes: int, form: Form) -> Tensor:
    """``(N,)``: null over the best real class."""
    if logits.shape[1] == num_classes:
        raise UserError("objective deny needs a model with a null class to push images into")
    return logits[:, num_classes] - _max(logits[:, :num_classes], form)


def evade_margin(logits: Tensor, labels: Tensor, num_classes: int, form: Form) -> Tensor:
    """``(N,)``: best other answer, null included, over the true label."""
    is_true = _is_true(logits, labels)
    other = _max(logits.masked_fill(is_true, _EXCLUDED), form)
    return other - logits.gather(1, labels[:, None]).squeeze(1)


def target_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """``(N,)``: ``z_t - logsumexp_{j != t} z_j``, the log-odds of the target.

    Its gradient has the direction of targeted cross-entropy's, without its vanishing when the
    model is sure. To reach t the true label and null must both be beaten, so aiming at every
    real class in turn is null-aware by itself.
    """
    is_target = _is_true(logits, targets)
    others = logits.masked_fill(is_target, _EXCLUDED).logsumexp(dim=1)
    return logits.gather(1, targets[:, None]).squeeze(1) - others


@dataclass(frozen=True)
class Objective:
    """An attacker's goal."""

    is_reached: Callable[[Tensor], Tensor]
    """``(N,)`` outcomes to ``(N,)`` booleans."""
    margin: Callable[[Tensor, Tensor, int, Form], Tensor]
    """Logits, true labels, K and form to the ``(N,)`` margin an attack climbs."""


OBJECTIVES: dict[str, Objective] = {
    "fool": Objective(lambda scored: scored == Outcome.FOOLED, fool_margin),
    "deny": Objective(lambda scored: scored == Outcome.NULL, deny_margin),
    "evade": Objective(lambda scored: scored != Outcome.CORRECT, evade_margin),
}
"""fool, deny and evade."""


def find_objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        UserError: If it is unknown.
    """
    if name not in OBJECTIVES:
        raise UserError(f"there is no objective {name!r}: choose one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def is_success(logits: Tensor, labels: Tensor, num_classes: int, objective: Objective) -> Tensor:
    """``(N,)`` booleans, decided by the outcome alone."""
    return objective.is_reached(outcomes(predictions(logits, num_classes), labels))


def ranked_targets(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """``(N, K - 1)`` wrong real classes of each image, the nearest (largest logit) first."""
    real = logits[:, :num_classes].masked_fill(_is_true(logits, labels)[:, :num_classes], _EXCLUDED)
    return real.argsort(dim=1, descending=True, stable=True)[:, : num_classes - 1]
