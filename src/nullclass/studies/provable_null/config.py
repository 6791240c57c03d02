"""A null that is proved, beside nulls that are learned.

Claim tested: a classifier that answers only where it can prove its answer has a robust accuracy
with rejection that no attack can go below, and that proof is worth more than the accuracy attacks
leave to classifiers that learned to refuse. Imports no torch.

Provable models are certified-trained for about half the ε they are named after: to answer within
r = ε / 2 of every image they answer (:mod:`nullclass.rejection.provable`). Beside them: two
networks that learned a null class, by adversarial training and as an abstain class, and one
trained on clean images. All are attacked by the same ensemble, which knows of null, and of all
the same bounds are asked. On MNIST, and as a study of its own on Fashion-MNIST, with the same
radii.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from nullclass.experiments.config import (
    AttackPlan,
    Preset,
    ProofPlan,
    RobustPlan,
    Study,
    Training,
    Trial,
)
from nullclass.training.recipes import Recipe

PROVABLE: dict[str, float] = {"provable-0.3": 0.15, "provable-0.4": 0.2}
"""The provable models, and the radius within which they prove their answers, in pixel units."""

FIRST_EPS = 0.16
SECOND_EPS: dict[str, float] = {"provable-0.3": 0.125, "provable-0.4": 0.175}
"""What the stages of the provable models are trained for in ``full``, in pixel units."""

LEARNED_EPS = 0.3
"""What the models with a learned null are trained for, in pixel units."""

LEARNED = ("adversarial-null", "abstain")
"""The models with a null class of their own."""

CLEAN = "clean"
VARIANTS = (*PROVABLE, *LEARNED, CLEAN)
"""The models, in the order of tables."""

EPS = (0.1, 0.2, 0.3, 0.4)
"""Budgets of the attacks, in pixel units."""

EPS_QUICK = (0.1, 0.3, 0.4)
"""Those of the quick preset: an image that stands costs the whole ensemble at every one."""

EPS_PROVED = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""Where something is proved, on all test images."""

RADII = (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3)
"""Radii with which the provable models are asked about all clean test images."""

DATASETS = ("mnist", "fashion-mnist")
"""What the study can be made with; the first unless told."""


def seeds(preset: Preset) -> Sequence[int]:
    """One: certified trainings take hours. More by the command line's ``--sets``."""
    return range(1)


def trials(dataset: str, preset: Preset, seeds: Sequence[int], names: Sequence[str]) -> list[Trial]:
    """The wanted models, each attacked, denied where it can be, and asked for proofs."""
    return [_trial(name, dataset, seed, preset) for seed in seeds for name in names]


def _trial(name: str, dataset: str, seed: int, preset: Preset) -> Trial:
    is_full = preset == "full"
    num_images = 1000 if is_full else 25
    # Of few images some are refused when clean: those are to be seen too.
    num_examples = min(num_images, 100) if name in PROVABLE else 8
    budgets = EPS if is_full else EPS_QUICK
    attacks = [AttackPlan("worst-case", budgets, num_images, num_examples=num_examples)]
    if name != CLEAN:
        deny = AttackPlan("worst-case-force-null", budgets, num_images, num_examples=12)
        if not is_full:  # the whole ensemble on what can hardly be denied takes minutes
            goal = {"objective": "force-null"}
            deny = AttackPlan(
                "pgd", budgets, num_images, goal, label="pgd-force-null", num_examples=12
            )
        attacks.append(deny)
    return Trial(
        training(name, dataset, seed, preset),
        tuple(attacks),
        num_clean=10_000,
        is_checked=is_full,
        radius=PROVABLE.get(name),
        proofs=(ProofPlan(EPS_PROVED, 10_000),),
        radii=RADII if name in PROVABLE else (),
    )


def training(name: str, dataset: str, seed: int, preset: Preset) -> Training:
    """The training of a model of this study.

    In ``full`` all models are the same network on jittered images; the provable ones are trained in
    two stages. The first is one for both: what was trained for the larger radius at once proved
    less there (LOG.md). The second goes on from its weights with less jitter, ε the model's own.
    """
    if preset == "full" and name in PROVABLE:
        rising = {"eps": FIRST_EPS, "warmup": 0.03, "ramp": 0.3}
        plan = RobustPlan("interval", rising)
        first = _training("provable-first", dataset, seed, True, _FULL_EPOCHS, plan)
        # ε stands from the second step: it has risen in the first stage.
        standing = {"eps": SECOND_EPS[name], "warmup": 0.0, "ramp": 0.001}
        recipe = replace(first.recipe, epochs=10, learning_rate=2e-3, jitter=0.5)
        plan = RobustPlan("interval", standing)
        return replace(first, name=name, start=first, robust=plan, recipe=recipe)
    is_full = preset == "full"
    epochs = {"adversarial-null": (3, 12), "abstain": (5, _FULL_EPOCHS), CLEAN: (2, 10)}
    robust = None
    if name in PROVABLE:
        robust = RobustPlan("interval", {"eps": round(PROVABLE[name] + 0.01, 6)})
    elif name == "adversarial-null":
        robust = RobustPlan("adversarial", {"eps": LEARNED_EPS})
    elif name == "abstain":
        robust = RobustPlan("abstain", {"eps": LEARNED_EPS})
    return _training(name, dataset, seed, is_full, epochs.get(name, (7, 0))[is_full], robust)


_FULL_EPOCHS = 50


def _training(
    name: str, dataset: str, seed: int, is_full: bool, epochs: int, robust: RobustPlan | None
) -> Training:
    return Training(
        name=name,
        architecture="certifiable-medium" if is_full else "certifiable-small",
        dataset=dataset,
        validation=0,
        seed=seed,
        weight_decay=0.0,
        nulls=None,
        recipe=Recipe(
            batch_size=128,
            epochs=epochs,
            learning_rate=3e-3 if is_full else 2e-3,
            schedule="late-cosine",
            jitter=0.8 if is_full else 0.0,  # else bounds fit the training images alone
        ),
        has_null=name in LEARNED,
        robust=robust,
    )


def study_on(dataset: str) -> Study:
    """The study on one of :data:`DATASETS`; on others than the first its name says which."""
    return Study(
        name="provable-null" if dataset == DATASETS[0] else f"provable-null-{dataset}",
        package=__package__,
        claim=(
            "A classifier that answers only what it can prove keeps more robust accuracy with "
            "rejection than classifiers that learned to refuse, and no attack can take it away."
        ),
        dataset=dataset,
        validation=0,
        variants=VARIANTS,
        seeds=seeds,
        trials=partial(trials, dataset),
    )


PROVABLE_NULL, PROVABLE_NULL_FASHION = map(study_on, DATASETS)
