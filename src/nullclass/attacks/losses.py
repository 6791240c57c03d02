"""Objectives of an attacker: what counts as success, and losses that increase towards it.

An objective says which answers are success for the attacker (*wins*); all others *defend*:

    fool:        wins = the real classes except y    defends = y and null
    force-null:  wins = null                         defends = the real classes
    untargeted:  wins = everything except y          defends = y

The losses, which attacks maximise:

    margin:            max over wins - max over defends, > 0 on success (Carlini & Wagner 2017)
    logsumexp-margin:  logsumexp over wins - logsumexp over defends
    dlr:               margin divided by the spread of the logits (Croce & Hein 2020, eq. 6)

The logsumexp margin has a gradient in all logits, but its sign does not decide success: only the
outcome does. DLR does not depend on the scale of the logits. Without a null logit ``fool`` equals
``untargeted`` and these are the losses of the literature. Null as a defending class is the abstain
class of Sheikholeslami et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.core.checks import check_choice
from nullclass.core.outcomes import Outcome, outcomes, predictions

LossName = Literal["logsumexp-margin", "margin", "dlr"]
ObjectiveName = Literal["fool", "force-null", "untargeted"]


@dataclass(frozen=True)
class Objective:
    """What an attacker wants."""

    is_reached: Callable[[Tensor], Tensor]
    """Outcomes ``(N,)`` to booleans ``(N,)``."""
    wins: Callable[[Tensor, Tensor, int], Tensor]
    """Logits ``(N, K)`` or ``(N, K + 1)``, true labels and K to booleans shaped like the logits."""

    def loss(self, logits: Tensor, labels: Tensor, num_classes: int, name: LossName) -> Tensor:
        """Return the loss ``(N,)`` over all winning answers."""
        return _loss(logits, self.wins(logits, labels, num_classes), name)

    def target_loss(
        self, logits: Tensor, labels: Tensor, targets: Tensor, num_classes: int, name: LossName
    ) -> Tensor:
        """Return the loss ``(N,)`` towards one target logit per image.

        ``margin`` and ``dlr`` compare the target with the best defending logit.
        ``logsumexp-margin`` is ``z_t - logsumexp_{j != t} z_j``, the log-odds of the target: the
        direction of targeted cross-entropy without its saturation. Every other logit must be
        beaten, null included, so targeting the real classes in turn is null-aware.
        """
        at_target = logits.gather(1, targets[:, None]).squeeze(1)
        if name == "logsumexp-margin":
            return at_target - _only(~_one_hot(logits, targets), logits).logsumexp(dim=1)
        wins = self.wins(logits, labels, num_classes)
        margin = at_target - _only(~wins, logits).amax(dim=1)
        return margin / _spread(logits, wins, is_targeted=True) if name == "dlr" else margin

    def rank_targets(self, logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """Return the winning answers ``(N, T)``, largest logit first."""
        wins = self.wins(logits, labels, num_classes)
        ranked = _only(wins, logits).argsort(dim=1, descending=True, stable=True)
        return ranked[:, : int(wins.sum(dim=1).amax()) if len(wins) else 0]


def chosen_loss(logits: Tensor, targets: Tensor, name: LossName) -> Tensor:
    """Return the loss ``(N,)`` of an attacker for whom only the target logit ``(N,)`` wins."""
    return _loss(logits, _one_hot(logits, targets), name)


def _loss(logits: Tensor, wins: Tensor, name: LossName) -> Tensor:
    winning, defending = _only(wins, logits), _only(~wins, logits)
    if name == "logsumexp-margin":
        return winning.logsumexp(dim=1) - defending.logsumexp(dim=1)
    margin = winning.amax(dim=1) - defending.amax(dim=1)
    return margin / _spread(logits, wins, is_targeted=False) if name == "dlr" else margin


def _only(chosen: Tensor, logits: Tensor) -> Tensor:
    return logits.masked_fill(~chosen, float("-inf"))


def _one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(labels, logits.shape[1]).bool()


def _fool_wins(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    wins = ~_one_hot(logits, labels)
    wins[:, num_classes:] = False
    return wins


def _null_wins(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    wins = torch.zeros_like(logits, dtype=torch.bool)
    wins[:, num_classes:] = True
    return wins


def _untargeted_wins(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    return ~_one_hot(logits, labels)


def _spread(logits: Tensor, wins: Tensor, *, is_targeted: bool) -> Tensor:
    """Return the denominator ``(N,)`` of DLR: first minus third of the ranked logits.

    Of several defending logits only the largest counts: y and null could otherwise be first and
    second, and the margin to the third would be divided by itself. With a single winning logit
    (null, in force-null) the defending logits are ranked.
    """
    if not len(wins) or int(wins[0].sum()) > 1:
        best = _only(~wins, logits).amax(dim=1, keepdim=True)
        ranked = torch.cat([_only(wins, logits), best], dim=1)
    else:
        ranked = _only(~wins, logits)
    ranked = ranked.sort(dim=1, descending=True).values
    num_finite = int(ranked.isfinite().sum(dim=1).amin()) if len(ranked) else 0
    if num_finite < 3 + is_targeted:  # there is no third, or the target is the third
        return torch.ones_like(ranked[:, 0])
    low = (ranked[:, 2] + ranked[:, 3]) / 2 if is_targeted else ranked[:, 2]
    return ranked[:, 0] - low + 1e-12


OBJECTIVES: dict[str, Objective] = {
    "fool": Objective(lambda scored: scored == Outcome.FOOLED, _fool_wins),
    "force-null": Objective(lambda scored: scored == Outcome.NULL, _null_wins),
    "untargeted": Objective(lambda scored: scored != Outcome.CORRECT, _untargeted_wins),
}
"""The objectives by name."""


def find_objective(name: str) -> Objective:
    """Return the objective of that name, or raise UserError."""
    return OBJECTIVES[check_choice("objective", name, OBJECTIVES)]


def is_success(logits: Tensor, labels: Tensor, num_classes: int, objective: Objective) -> Tensor:
    """Return ``(N,)`` booleans: whether the outcome reaches the objective."""
    return objective.is_reached(outcomes(predictions(logits, num_classes), labels))
