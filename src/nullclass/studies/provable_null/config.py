"""Trials of the study ``provable-null``: a proved null class beside learned ones.

Claim: a classifier that answers only what it can prove has a robust accuracy with rejection that no
attack can lower, and more of it than classifiers with a learned null class keep under attack.

The provable models answer what is proved within a radius r (:mod:`nullclass.rejection.provable`),
for ε = 2r. Beside them: two networks with a learned null class, by adversarial training and by the
abstain class, and one trained on clean images. All are attacked by the same null-aware ensemble and
verified with the same bounds. There is one study per dataset, with the same radii. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from nullclass.experiments.config import AttackPlan, ProofPlan, RobustPlan, Training, Trial
from nullclass.experiments.study import Preset, Study
from nullclass.training.recipes import Recipe

PROVABLE: dict[str, float] = {"provable-r0.15": 0.15, "provable-r0.2": 0.2}
"""The provable models and their radii in pixel units. Those of ``full`` are
the zoo's ``provable-cascade-0.3`` and ``-0.4``."""

BOUNDS: dict[str, float] = {"bound_weight": 0.02, "num_steps": 2}
"""Settings of MTL-IBP for the provable models in ``full``: small weight on the bounds, since the
cascade proves much of what intervals leave."""

FIRST_EPS = 0.2
SECOND_EPS: dict[str, float] = {"provable-r0.15": 0.16, "provable-r0.2": 0.21}
"""Training ε of the two stages of the provable models in ``full``, in pixel units."""

LEARNED_EPS = 0.3
"""Training ε of the models with a learned null class, in pixel units."""

LEARNED = ("adversarial-null", "abstain")
"""The models with a learned null class."""

BASE = "clean"
VARIANTS = (*PROVABLE, *LEARNED, BASE)

EPS = (0.1, 0.2, 0.3, 0.4)
"""Budgets of the attacks, in pixel units."""

NUM_ATTACKED = 1000
"""Images that are attacked; most of the provable models' need no attack."""

EPS_PROVED = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""Budgets of the proofs, on all test images."""

RADII = (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3)
"""Radii at which the provable models answer all clean test images."""

DATASETS = ("mnist", "fashion-mnist")
"""Datasets of the study; the first is the default."""

FULL_EPOCHS = 50


def trials(dataset: str, preset: Preset, seeds: Sequence[int], names: Sequence[str]) -> list[Trial]:
    """One trial per model and seed."""
    return [_trial(name, dataset, seed, preset) for seed in seeds for name in names]


def _trial(name: str, dataset: str, seed: int, preset: Preset) -> Trial:
    # Few images are null when clean, so that more examples are kept where they are shown.
    num_examples = 100 if name in PROVABLE else 8
    radius, largest, verifier = PROVABLE.get(name), max(EPS_PROVED), "interval"
    radii = () if radius is None else RADII
    if preset == "full" and radius is not None:
        # The cascade takes seconds for an image that it cannot prove: nearly all above ε = 2r.
        verifier, largest, radii = "cascade", 2 * radius, ()
    eps, eps_proved = (tuple(e for e in of if e <= largest) for of in (EPS, EPS_PROVED))
    attacks = [AttackPlan("worst-case", eps, NUM_ATTACKED, num_examples=num_examples)]
    if name != BASE:
        attacks.append(AttackPlan("worst-case-force-null", eps, NUM_ATTACKED, num_examples=12))
    return Trial(
        training(name, dataset, seed, preset),
        tuple(attacks),
        num_clean=10_000,
        is_checked=True,
        radius=radius,
        verifier=verifier,
        proofs=(ProofPlan(eps_proved, 10_000),),
        radii=radii,
    )


def training(name: str, dataset: str, seed: int, preset: Preset) -> Training:
    """The training of a model.

    In ``full`` all models are the same network on distorted images, and the provable models train
    in two stages, of which they share the first. The second has less distortion and the model's own
    ε. Weight and ε were chosen on held-out training images (LOG.md).
    """
    if preset == "full" and name in PROVABLE:
        first = _training(
            "provable-first",
            dataset,
            seed,
            is_full=True,
            epochs=FULL_EPOCHS,
            robust=RobustPlan("mtl-ibp", {"eps": FIRST_EPS, "warmup": 0.03, "ramp": 0.3} | BOUNDS),
        )
        # ε is constant from the second step: it has increased in the first stage.
        settings = {"eps": SECOND_EPS[name], "warmup": 0.0, "ramp": 0.001} | BOUNDS
        recipe = replace(first.recipe, epochs=10, learning_rate=2e-3, jitter=0.5)
        plan = RobustPlan("mtl-ibp", settings)
        return replace(first, name=name, start=first, robust=plan, recipe=recipe)
    is_full = preset == "full"
    epochs = {"adversarial-null": (3, 12), "abstain": (5, FULL_EPOCHS), BASE: (2, 10)}
    robust = None
    if name in PROVABLE:
        robust = RobustPlan("interval", {"eps": round(PROVABLE[name] + 0.01, 6)})
    elif name == "adversarial-null":
        robust = RobustPlan("adversarial", {"eps": LEARNED_EPS})
    elif name == "abstain":
        robust = RobustPlan("abstain", {"eps": LEARNED_EPS})
    num_epochs = epochs.get(name, (7, 0))[is_full]
    return _training(name, dataset, seed, is_full=is_full, epochs=num_epochs, robust=robust)


def _training(
    name: str, dataset: str, seed: int, *, is_full: bool, epochs: int, robust: RobustPlan | None
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
            jitter=0.8 if is_full else 0.0,  # against overfitting of the bounds in long trainings
        ),
        has_null=name in LEARNED,
        robust=robust,
    )


def study_on(dataset: str) -> Study:
    """The study on one of :data:`DATASETS`; all names but the first end with the dataset."""
    return Study(
        name="provable-null" if dataset == DATASETS[0] else f"provable-null-{dataset}",
        package=__package__,
        claim=(
            "A classifier that answers only what it can prove keeps more robust accuracy with "
            "rejection than classifiers with a learned null class, and no attack can lower it."
        ),
        dataset=dataset,
        validation=0,
        variants=VARIANTS,
        num_seeds={"quick": 1, "full": 1},  # certified training takes hours
        trials=partial(trials, dataset),
    )


PROVABLE_NULL, PROVABLE_NULL_FASHION = map(study_on, DATASETS)
