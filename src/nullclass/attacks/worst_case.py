"""The worst case: a fixed, versioned ensemble without settings, cheapest first.

Each member attacks only what still stands, so an image costs what it takes to fool it: a few
passes for most images of a weak model, and the whole sequence for an image that stands. The
members were chosen by what they add for their cost (LOG.md). The order:

1. images of other classes, projected into the ball (exact at the largest eps);
2. one untargeted climb of the smooth margin, large steps with momentum;
3. one climb towards every other answer, on the smooth margin and, in smaller steps, on the hard
   one, for logits that differ little;
4. Auto-PGD on the smooth margin from many random starts, for bumpy landscapes;
5. random search, for what hides its gradient, and longer where there is none at all.

No member climbs DLR: on no model that was tried did it add an image (LOG.md).

The idea of a fixed ensemble is AutoAttack's (Croce & Hein 2020); the objectives are those of a
model that may refuse.
"""

from __future__ import annotations

from nullclass.attacks.apgd import APGD
from nullclass.attacks.base import Attack
from nullclass.attacks.dataset import DatasetAttack
from nullclass.attacks.ensemble import AttackEnsemble
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.multi_targeted_pgd import MultiTargetedPGD
from nullclass.attacks.on_zero_gradient import OnZeroGradient
from nullclass.attacks.pgd import PGD
from nullclass.attacks.square import Square

VERSION = "1"
"""Changes whenever a member or its settings do: numbers of two versions do not compare."""


def worst_case(objective: ObjectiveName = "fool") -> AttackEnsemble:
    """The strongest attack there is here; nothing to tune.

    Args:
        objective: What the attacker wants.
    """
    members: dict[str, Attack] = {
        "swap": DatasetAttack(objective=objective),
        "smooth": PGD(objective, num_steps=40, relative_step=0.15, momentum=0.75),
        "targets": MultiTargetedPGD(objective, num_steps=40, relative_step=0.15, momentum=0.75),
        "targets, hard": MultiTargetedPGD(
            objective, "hard", num_steps=80, relative_step=0.05, momentum=0.75
        ),
        "restarts": APGD(objective, num_steps=25, num_restarts=12),
        "square": Square(objective, form="smooth", num_queries=3000),
        "square, flat": OnZeroGradient(Square(objective, num_queries=5000)),
    }
    return AttackEnsemble(tuple(members.values()), tuple(members), f"worst-case {VERSION}")
