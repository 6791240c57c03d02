"""What an attacker wants: a test of success, and margins to climb towards it.

An objective parts the logits in two: those that *win* (if one of them is the largest, the
attacker has what he wants) and those that *defend*:

    fool:   wins = the real classes but y    defends = y and null
    deny:   wins = null                      defends = the real classes
    evade:  wins = everything but y          defends = y

The margins, each larger the nearer success is:

    hard:   max over wins - max over defends          (Carlini & Wagner 2017); > 0 on success
    smooth: logsumexp over wins - logsumexp over defends
    dlr:    hard, divided by the logits' own spread   (Croce & Hein 2020, eq. 6, null merged)

The smooth margin's gradient sees all classes at once, but its sign is no proof of success: that is
always the outcome's own test. DLR does not change when the logits are scaled. Without a null logit
fool is evade, and these are the margins of the literature. Null counted as a defence is
the abstain class of Sheikholeslami et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.core.outcomes import Outcome, outcomes, predictions

Form = Literal["hard", "smooth", "dlr"]
ObjectiveName = Literal["fool", "force-null", "untargeted"]
_EXCLUDED = float("-inf")


@dataclass(frozen=True)
class Objective:
    """An attacker's goal."""

    is_reached: Callable[[Tensor], Tensor]
    """``(N,)`` outcomes to ``(N,)`` booleans."""
    wins: Callable[[Tensor, Tensor, int], Tensor]
    """Logits ``(N, K)`` or ``(N, K + 1)``, true labels and K to booleans shaped like the logits."""

    def margin(self, logits: Tensor, labels: Tensor, num_classes: int, form: Form) -> Tensor:
        """``(N,)``: how near the attacker is."""
        wins = self.wins(logits, labels, num_classes)
        winning = logits.masked_fill(~wins, _EXCLUDED)
        defending = logits.masked_fill(wins, _EXCLUDED)
        if form == "smooth":
            return winning.logsumexp(dim=1) - defending.logsumexp(dim=1)
        margin = winning.amax(dim=1) - defending.amax(dim=1)
        return margin / _spread(logits, wins, targeted=False) if form == "dlr" else margin

    def target_margin(
        self, logits: Tensor, labels: Tensor, targets: Tensor, num_classes: int, form: Form
    ) -> Tensor:
        """``(N,)``: how near the attacker is to the answer ``targets`` ``(N,)``.

        ``hard`` and ``dlr`` are the target's logit over the best defender's. ``smooth`` is
        ``z_t - logsumexp_{j != t} z_j``, the target's log-odds: targeted cross-entropy's direction,
        without its vanishing when the model is sure. As every defender must be beaten, null too,
        aiming at the real classes in turn is null-aware by itself.
        """
        at_target = logits.gather(1, targets[:, None]).squeeze(1)
        if form == "smooth":
            others = logits.masked_fill(_is_at(logits, targets), _EXCLUDED).logsumexp(dim=1)
            return at_target - others
        wins = self.wins(logits, labels, num_classes)
        margin = at_target - logits.masked_fill(wins, _EXCLUDED).amax(dim=1)
        return margin / _spread(logits, wins, targeted=True) if form == "dlr" else margin

    def targets(self, logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """``(N, T)`` answers that win, the nearest (largest logit) first."""
        wins = self.wins(logits, labels, num_classes)
        ranked = logits.masked_fill(~wins, _EXCLUDED).argsort(dim=1, descending=True, stable=True)
        return ranked[:, : int(wins.sum(dim=1).amax()) if len(wins) else 0]


def _is_at(logits: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(labels, logits.shape[1]).bool()


def _fool_wins(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    wins = ~_is_at(logits, labels)
    wins[:, num_classes:] = False
    return wins


def _deny_wins(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    if logits.shape[1] == num_classes:
        raise UserError("objective deny needs a model with a null class to push images into")
    wins = torch.zeros_like(logits, dtype=torch.bool)
    wins[:, num_classes] = True
    return wins


def _evade_wins(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    return ~_is_at(logits, labels)


def _spread(logits: Tensor, wins: Tensor, *, targeted: bool) -> Tensor:
    """``(N,)``: DLR's denominator, over logits of which no two stand on the same side for the same.

    Where the defenders are several (y and null), only their best counts: left apart, the two could
    be first and second, and the margin to a third would be divided by itself. With a single
    winner (null, in deny) the defenders' own spread serves.
    """
    if int(wins[0].sum()) > 1 if len(wins) else True:
        best = logits.masked_fill(wins, _EXCLUDED).amax(dim=1, keepdim=True)
        seen = torch.cat([logits.masked_fill(~wins, _EXCLUDED), best], dim=1)
    else:
        seen = logits.masked_fill(wins, _EXCLUDED)
    ranked = seen.sort(dim=1, descending=True).values
    num_seen = int(ranked.isfinite().sum(dim=1).amin()) if len(ranked) else 0
    if num_seen < 3 + targeted:  # two have no third; of three the target may be it: no gradient
        return torch.ones_like(ranked[:, 0])
    low = (ranked[:, 2] + ranked[:, 3]) / 2 if targeted else ranked[:, 2]
    return ranked[:, 0] - low + 1e-12


OBJECTIVES: dict[str, Objective] = {
    "fool": Objective(lambda scored: scored == Outcome.FOOLED, _fool_wins),
    "force-null": Objective(lambda scored: scored == Outcome.NULL, _deny_wins),
    "untargeted": Objective(lambda scored: scored != Outcome.CORRECT, _evade_wins),
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


def check_form(form: str) -> None:
    """Refuse a form of the margin that does not exist.

    Raises:
        UserError: If it is unknown.
    """
    if form not in get_args(Form):
        raise UserError(f"there is no form {form!r} of the margin: choose hard, smooth or dlr")


def is_success(logits: Tensor, labels: Tensor, num_classes: int, objective: Objective) -> Tensor:
    """``(N,)`` booleans, decided by the outcome alone."""
    return objective.is_reached(outcomes(predictions(logits, num_classes), labels))
