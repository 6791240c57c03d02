"""Trials of the study ``detectors``: published ways to refuse, attacked by somebody who knows them.

Claim: of the published detectors none that is fitted to an ordinary network survives an attacker
who knows it. Every way to refuse is put on the same two networks, one trained on clean images and
one by adversarial training, with a threshold at which 1 % of held-out clean images are null. Each
is measured as in its paper, on images that were made on the network without it, and then under the
worst case, which takes gradients through the score. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nullclass.experiments.config import (
    AttackPlan,
    Craft,
    ModelSpec,
    NullPlan,
    ProofPlan,
    RobustPlan,
    Training,
    Trial,
)
from nullclass.experiments.detector_plan import CONSISTENCY, DetectorPlan
from nullclass.experiments.study import Preset, Study
from nullclass.training.recipes import Recipe

CLEAN, ADVERSARIAL, STRONG, INTERVAL = "clean", "adversarial", "strong", "interval"
NETWORKS = (CLEAN, ADVERSARIAL)
"""The networks that every way to refuse is put on."""

ARCHITECTURES = {
    CLEAN: "small",
    ADVERSARIAL: "certifiable-small",
    STRONG: "certifiable-medium",
    INTERVAL: "certifiable-small",
}
"""The second is the first behind a learned pixel threshold, which shortens robust training. Trained
on clean images it is no ordinary network: the worst case at ε 0.3 fooled 38 % of 500 images."""

NONE, NULL_CLASS, PROOF = "none", "null-class", "proof"
LOGIT_SCORES = ("softmax", "margin", "energy", "entropy")
DETECTORS = (
    "feature-squeezing",
    "magnet-reconstruction",
    "magnet-divergence",
    "kernel-density",
    "mahalanobis",
    "odds-are-odd",
)
"""The other names in :data:`nullclass.rejection.DETECTORS`, which cannot be imported here."""

RULES = (NONE, *LOGIT_SCORES, NULL_CLASS, *DETECTORS[:-1], CONSISTENCY, DETECTORS[-1], PROOF)
"""Ways to refuse, those that cost most per prediction last."""

VARIANTS = (
    *(f"{network}-{rule}" for rule in RULES for network in NETWORKS),
    f"{STRONG}-{NONE}",
    f"{STRONG}-{CONSISTENCY}",
    f"{INTERVAL}-{PROOF}",
)
"""A network and its way to refuse. The strong network, a wider one trained for ten times as long,
is for consistency at its best; ``quick`` leaves it out."""

EPS = (0.1, 0.2, 0.3)
"""Budgets in pixel units; ``quick`` has the last only, at which images that are not fooled cost
least."""

NUM_QUICK = {CLEAN: 500, ADVERSARIAL: 25, INTERVAL: 100}
"""Images that ``quick`` attacks, by network: those that are fooled at once cost little, and those
that are proved nothing."""

RADIUS = 0.15
"""Radius of consistency and proofs: half the largest budget, the best choice against it."""

CONSISTENCY_SETTINGS: dict[str, Any] = {"radius": RADIUS, "num_steps": 10}

NULL_RATE = 0.01
"""Share of held-out clean images that the threshold refuses."""

VALIDATION = 5_000
"""Held-out images, for the thresholds."""

NUM_FITTED = 5_000
"""Training images that a detector is fitted to."""

TRAINING_EPS = 0.3
"""Of adversarial training, in pixel units."""

STRONG_EPS = 0.22
"""Of the strong network: consistency needs it to be right within the radius only."""

UNAWARE: dict[str, tuple[str, dict[str, Any]]] = {
    "fgsm": ("fgsm", {}),
    "pgd": ("pgd", {}),
    "nearest": ("fmn", {"is_nearest": True}),
}
"""Attacks on the network without its way to refuse: name to attack and settings. The last takes the
nearest image that is fooled, as Carlini & Wagner 2017 do, in L∞, and only at the last budget."""


def trials(preset: Preset, seeds: Sequence[int], names: Sequence[str]) -> list[Trial]:
    """One trial per variant and seed. The presets differ in budgets and numbers of images."""
    planned = [name for name in VARIANTS if name in names]
    if preset == "quick":
        planned = [name for name in planned if not name.startswith(STRONG)]
    return [_trial(name, seed, preset) for seed in seeds for name in planned]


def _trial(name: str, seed: int, preset: Preset) -> Trial:
    network, rule = name.split("-", 1)
    is_full = preset == "full"
    num_full = 1_000 if network == STRONG else 500
    num_clean, num_images = (10_000, num_full) if is_full else (1_000, NUM_QUICK[network])
    budgets = EPS if is_full else EPS[-1:]
    training = network_training(network, seed)
    num_unaware = num_images if is_full else max(num_images, 100)
    unaware = [
        AttackPlan(
            attack, EPS[-1:] if attack == "fmn" else budgets, num_unaware, settings, label=of
        )
        for of, (attack, settings) in UNAWARE.items()
    ]
    crafted = tuple(Craft(ModelSpec(training), plan) for plan in unaware)
    attacks = [AttackPlan("worst-case", budgets, num_images, num_examples=8)]
    if rule != NONE:
        attacks.append(AttackPlan("worst-case-force-null", budgets, num_images))
    if rule == PROOF and network != INTERVAL:  # interval bounds prove nothing of such networks
        crafted, attacks = (), []
    if rule == NULL_CLASS:
        training = null_class_training(network, seed)
    return Trial(
        training,
        tuple(attacks),
        num_clean=num_clean,
        is_checked=bool(attacks),
        null_rate=None if rule in (NONE, PROOF) else NULL_RATE,
        crafted=crafted,
        radius=RADIUS if rule == PROOF else None,
        proofs=(ProofPlan((RADIUS, *EPS), num_clean),) if rule == PROOF else (),
        detector=_detector(rule),
        label=name,
    )


def _detector(rule: str) -> DetectorPlan | None:
    if rule == CONSISTENCY:
        return DetectorPlan(CONSISTENCY, settings=CONSISTENCY_SETTINGS)
    if rule in LOGIT_SCORES or rule in DETECTORS:
        return DetectorPlan(rule, NUM_FITTED)
    return None


def network_training(network: str, seed: int) -> Training:
    """The training of a network without null."""
    robust = {
        ADVERSARIAL: RobustPlan("adversarial", {"eps": TRAINING_EPS, "num_steps": 5}),
        STRONG: RobustPlan("adversarial", {"eps": STRONG_EPS, "num_steps": 7}),
        INTERVAL: RobustPlan("interval", {"eps": RADIUS + 0.01}),
    }
    epochs = {CLEAN: 2, ADVERSARIAL: 3, STRONG: 30, INTERVAL: 5}
    jitter = 0.8 if network == STRONG else 0.0
    return _training(network, seed, epochs[network], robust=robust.get(network), jitter=jitter)


def null_class_training(network: str, seed: int) -> Training:
    """The training of a network with a null class.

    On clean images null is learned from FGSM images, as in the notebook; in adversarial training
    the label or null is correct on adversarial images.
    """
    name = f"{network}-{NULL_CLASS}"
    if network == CLEAN:
        nulls = NullPlan("adversarial", {"eps": 0.154, "num_steps": 1}, weight=1 / 11)
        return _training(name, seed, 2, nulls=nulls, has_null=True)
    robust = RobustPlan("adversarial", {"eps": TRAINING_EPS, "num_steps": 5})
    return _training(name, seed, 3, robust=robust, has_null=True)


def _training(
    name: str,
    seed: int,
    epochs: int,
    *,
    robust: RobustPlan | None = None,
    nulls: NullPlan | None = None,
    has_null: bool = False,
    jitter: float = 0.0,
) -> Training:
    return Training(
        name=name,
        architecture=ARCHITECTURES[name.split("-")[0]],
        dataset="mnist",
        validation=VALIDATION,
        seed=seed,
        weight_decay=0.0,
        nulls=nulls,
        recipe=Recipe(
            batch_size=128,
            epochs=epochs,
            learning_rate=2e-3,
            schedule="late-cosine",
            jitter=jitter,
        ),
        has_null=has_null,
        robust=robust,
    )


DETECTORS_STUDY = Study(
    name="detectors",
    package=__package__,
    claim=(
        "No published detector on an ordinary network keeps images from being fooled once the "
        "attacker knows it."
    ),
    dataset="mnist",
    validation=VALIDATION,
    variants=VARIANTS,
    num_seeds={"quick": 1, "full": 1},
    trials=trials,
)
