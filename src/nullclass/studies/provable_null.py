"""A null that is proved, beside nulls that are learned.

Claim tested: a classifier that answers only where it can prove its answer has a robust accuracy with
rejection that no attack can go below, and that proof is worth more than the accuracy attacks leave to
classifiers that learned to refuse. Imports no torch.

Provable models are certified-trained for about half the ε they are named after: to answer within
r = ε / 2 of every image they answer (:mod:`nullclass.certify.provable`).
"""

from __future__ import annotations

from nullclass.recipes import Recipe
from nullclass.studies.base import Preset, RobustPlan, Training

PROVABLE: dict[str, float] = {"provable-0.3": 0.15, "provable-0.4": 0.2}
"""The provable models, and the radius within which they prove their answers, in pixel units."""

TRAIN_MARGIN = 0.015
"""Trained for a little more than the radius, in pixel units."""

LEARNED_EPS = 0.3
"""What the models with a learned null are trained for, in pixel units."""


def training(name: str, dataset: str, seed: int, preset: Preset) -> Training:
    """The training of a model of this study."""
    is_full = preset == "full"
    epochs = {"adversarial-null": 12, "abstain": 30, "clean": 10}.get(name, 60)
    quick = {"adversarial-null": 3, "abstain": 5, "clean": 2}.get(name, 7)
    robust = None
    if name in PROVABLE:
        robust = RobustPlan("interval", {"eps": PROVABLE[name] + TRAIN_MARGIN})
    elif name == "adversarial-null":
        robust = RobustPlan("adversarial", {"eps": LEARNED_EPS})
    elif name == "abstain":
        robust = RobustPlan("abstain", {"eps": LEARNED_EPS})
    return Training(
        name=name,
        architecture="certifiable" if is_full and name in PROVABLE else "certifiable-small",
        dataset=dataset,
        validation=0,
        seed=seed,
        weight_decay=0.0,
        nulls=None,
        recipe=Recipe(
            batch_size=128,
            epochs=epochs if is_full else quick,
            learning_rate=2e-3,
            schedule="late-cosine",
        ),
        has_null=name in ("adversarial-null", "abstain"),
        robust=robust,
    )
