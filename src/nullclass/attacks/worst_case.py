"""Fixed sequences of attacks: the worst case in its versions, and the null-aware PGD of studies."""

from __future__ import annotations

from functools import partial

from nullclass.attacks.apgd import APGD
from nullclass.attacks.base import Attack
from nullclass.attacks.beyond_radius import BeyondRadius
from nullclass.attacks.conditional import OnRule, OnSample, OnZeroGradient
from nullclass.attacks.dataset import DatasetAttack
from nullclass.attacks.diversified import DiversifiedPGD
from nullclass.attacks.ensemble import AttackEnsemble
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.nearest_first import NearestFirstPGD
from nullclass.attacks.pgd import PGD, MultiTargetedPGD
from nullclass.attacks.refined import RefinedPGD
from nullclass.attacks.square import Square
from nullclass.attacks.state import Precision

VERSION = "2"
"""Version of the worst case; changes with any member or setting, once it has been released."""


def worst_case(objective: ObjectiveName = "fool") -> AttackEnsemble:
    """Return the strongest attack: a fixed, versioned ensemble, cheapest member first.

    Each member attacks only the images still active, so that an image costs what it takes to fool
    it. Later members first attack the images nearest to a success, and the others only if that
    succeeds. The members were chosen by what they add for their cost (LOG.md):

    1. to force null, where the model answers what holds within a radius: images that fool the
       network beyond eps, as far as the radius reaches;
    2. images of other classes, projected into the ball (exact at the largest eps);
    3. PGD on the logsumexp margin, large steps with momentum;
    4. short runs from diversified starts, on both margins in turns;
    5. to fool a rule around a network: PGD from the nearest images that fool the network;
    6. PGD in smaller steps towards the three nearest answers;
    7. PGD in falling steps from the best images so far, and from points near them;
    8. the same as 6. towards the next six answers;
    9. PGD in falling steps once more, along the gradient itself;
    10. random search, for masked gradients: longer where the gradient is zero.

    The idea of a fixed ensemble is AutoAttack's (Croce & Hein 2020), that of short runs on the
    nearest images A3's (Liu et al. 2022), that few targets suffice that of the MM attack (Gao et
    al. 2022); the objectives are those of a model that may reject.

    Args:
        objective: What the attacker wants.
    """
    targeted = partial(MultiTargetedPGD, objective, "margin", relative_step=0.1, momentum=0.75)
    square = Square(objective, "logsumexp-margin", num_queries=3000)
    squares = AttackEnsemble((OnSample(Square(objective), share=0.06), OnSample(square, 0.01)))
    members: dict[str, Attack] = {
        "beyond-radius": BeyondRadius(AttackEnsemble((PGD(), MultiTargetedPGD(num_targets=3)))),
        "dataset": DatasetAttack(objective=objective),
        "pgd": PGD(objective, num_steps=40, relative_step=0.15, momentum=0.75),
        "diversified": DiversifiedPGD(objective),
        "nearest-first": OnRule(OnSample(NearestFirstPGD(), share=0.1)),
        "targets": OnSample(targeted(num_targets=3), share=0.25),
        "refined": OnSample(RefinedPGD(objective), share=0.25),
        "far-targets": OnSample(targeted(num_skipped=3, num_targets=6), share=0.05),
        "along-gradient": OnSample(RefinedPGD(objective, along_gradient=True), 0.01, smallest=8),
        "square-zero-gradient": OnZeroGradient(squares),
        "square": OnSample(square, share=0.01, smallest=3),
    }
    if objective != "force-null":
        del members["beyond-radius"]
    if objective != "fool":
        del members["nearest-first"]
    names, version = tuple(members), f"worst-case {VERSION}"
    return AttackEnsemble(tuple(members.values()), names, version, largest_eps_first=True)


def worst_case_1(objective: ObjectiveName = "fool") -> AttackEnsemble:
    """Return version 1 of the worst case: the reference of version 2, at many times its cost.

    Each member attacks only the images still active, so that an image costs what it takes to fool
    it. The members were chosen by what they add for their cost (LOG.md):

    1. images of other classes, projected into the ball (exact at the largest eps);
    2. PGD on the logsumexp margin, large steps with momentum;
    3. PGD towards every other answer, on the logsumexp margin and, in smaller steps, on the
       margin, for logits that differ little;
    4. Auto-PGD on the logsumexp margin from many random starts, for bumpy losses;
    5. random search for masked gradients, longer where the gradient is zero.

    No member uses DLR: it added no image on any model tried (LOG.md). The idea of a fixed ensemble
    is AutoAttack's (Croce & Hein 2020); the objectives are those of a model that may reject.

    Args:
        objective: What the attacker wants.
    """
    members: dict[str, Attack] = {
        "dataset": DatasetAttack(objective=objective),
        "pgd": PGD(objective, num_steps=40, relative_step=0.15, momentum=0.75),
        "targets": MultiTargetedPGD(objective, num_steps=40, relative_step=0.15, momentum=0.75),
        "targets-margin": MultiTargetedPGD(
            objective, "margin", num_steps=80, relative_step=0.05, momentum=0.75
        ),
        "restarts": APGD(objective, num_steps=25, num_restarts=12),
        "square": Square(objective, "logsumexp-margin", num_queries=3000),
        "square-zero-gradient": OnZeroGradient(Square(objective, num_queries=5000)),
    }
    return AttackEnsemble(tuple(members.values()), tuple(members), "worst-case 1")


def null_aware_pgd(
    num_steps: int = 40, num_target_steps: int = 40, precision: Precision = "float32"
) -> AttackEnsemble:
    """Return the null-aware PGD of the studies: logsumexp margin, margin, every wrong class.

    The margin is for models whose logits differ little, where the logsumexp margin misleads.

    Args:
        num_steps: Steps of each untargeted member.
        num_target_steps: Steps towards each of the K - 1 wrong real classes.
        precision: Of the gradients, as in :class:`nullclass.attacks.pgd.PGD`.
    """
    members = {
        "logsumexp-margin": PGD(num_steps=num_steps, precision=precision),
        "margin": PGD(loss="margin", num_steps=num_steps, precision=precision),
        "targets": MultiTargetedPGD(num_steps=num_target_steps, precision=precision),
    }
    return AttackEnsemble(tuple(members.values()), tuple(members))
