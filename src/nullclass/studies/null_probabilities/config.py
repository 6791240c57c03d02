"""Trials of the study ``null-probabilities`` (Hosseini et al. 2017).

As an image is perturbed more, the classifier moves probability smoothly from the true label to
null. Claim: adversarial images that an attacker makes on a substitute are answered null. The study
also attacks the models themselves, and compares a hard null (the notebook's), CCAT, a background
class and one null label per class. All models share one architecture; the weight of null images,
their number and the epochs differ (``_nulls``, ``_recipe``). Imports no torch.

Attackers differ in what they have: other models trained on the same data (with and without null),
answers of the target to a few thousand queries, labels during the attack, or the target itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nullclass.experiments.config import (
    AttackPlan,
    Craft,
    Estimate,
    ModelSpec,
    NullPlan,
    Queries,
    SizePlan,
    Training,
    Trial,
)
from nullclass.experiments.study import Preset, Study
from nullclass.training.queries import QueryPlan
from nullclass.training.recipes import FAITHFUL, FAST, Recipe

BASE = "clean"
PROBABILITIES = ("np-linf", "np-l2", "np-l0")
PER_CLASS = "per-class-null"
VARIANTS = (BASE, "hard", *PROBABILITIES, "ccat", "background", PER_CLASS)
"""The models, all of one architecture; ``np-`` is NULL probabilities by the argument of f."""

SUBSTITUTES = ("sub-clean", "sub-null")
"""Substitutes of another architecture on the same data: without null, and with a hard null."""

QUERIED = "sub-queries"
"""Substitutes that are trained on a target's answers."""

SUBSTITUTE_SEED = 1000
"""Added to a model's seed for the seed of its substitutes."""

ON = " on "
"""Separates attack and source in the ``attack`` column of a transferred attack."""

NUM_SEED_IMAGES = 600
"""The attacker's own images. With the paper's 150 fewer attacks transfer (LOG.md)."""

MAKERS: dict[str, tuple[str, dict[str, int]]] = {
    "linf": ("pgd", {"num_steps": 3}),
    "l2": ("pgd", {"num_steps": 3}),
    "l0": ("sparse", {"num_steps": 2}),
}
"""Perturbation and settings by norm. They fool a clean network on all images at some size: one step
in L2 or along one saliency map fails on a fifth of the images at any size. Several steps also train
better: of images transferred at eps 0.2, 4.5 % fool a model trained with FGSM, 0.5 % one trained
with three steps (LOG.md)."""

WEIGHT = 2.0
"""Weight of the loss of perturbed images; there is one per clean image."""

VALIDATION = 5_000
"""Held-out training images, for null curves and CCAT's threshold."""

EPS = (0.1, 0.2, 0.3)
"""Budgets of transfers and of the worst case, in pixel units."""

HARD = NullPlan("adversarial", {"eps": 0.154, "num_steps": 1}, weight=1 / 11)
"""Hard null images; ε is in pixel units, the notebook's 0.5."""

BACKGROUND = "fashion-mnist"
"""Dataset of null images of the background class."""

CCAT_EPS = 0.3
CCAT_NULL_RATE = 0.01
"""Null rate of CCAT's threshold on clean images, as published."""

TRANSFERS = ("fgsm", "mi-fgsm")
"""Attacks that are made on one model and scored on all."""

SIZES: dict[str, tuple[float, ...]] = {
    "linf": (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.4),
    "l2": (0.0, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 4.0),
    "l0": (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06, 0.1),
}
"""Sizes at which probabilities are recorded."""


def trials(preset: Preset, seeds: Sequence[int], variants: Sequence[str]) -> list[Trial]:
    """One trial per model, with the adversarial images of all models and substitutes."""
    return [trial for seed in seeds for trial in _of_seed(preset, seed, variants)]


def _of_seed(preset: Preset, seed: int, variants: Sequence[str]) -> list[Trial]:
    is_full = preset == "full"
    # All models are sources: a trial must not depend on the choice of variants.
    models = {name: model_spec(name, seed, preset) for name in VARIANTS}
    shared = [ModelSpec(substitute(name, seed, preset)) for name in SUBSTITUTES]
    sources = [*shared, *models.values()]
    crafted = [craft(source, name, preset) for source in sources for name in TRANSFERS]
    planned = []
    for name in variants:
        model = models[name]
        own = ModelSpec(queried(model, preset))
        planned.append(
            Trial(
                model.training,
                _attacks(is_full, has_null=name != BASE),
                num_clean=10_000,
                null_rate=model.null_rate,
                is_checked=True,
                crafted=(*crafted, *(craft(own, attack, preset) for attack in TRANSFERS)),
                sizes=tuple(
                    SizePlan(maker, norm, SIZES[norm], 1000 if is_full else 100, settings)
                    for norm, (maker, settings) in MAKERS.items()
                ),
            )
        )
    return planned


def _attacks(is_full: bool, *, has_null: bool) -> tuple[AttackPlan, ...]:
    num_images = 1000 if is_full else 100
    return (
        *([AttackPlan("worst-case-force-null", EPS, num_images)] if has_null else []),
        AttackPlan("rays", EPS, num_images, {"num_queries": 10_000 if is_full else 500}),
        AttackPlan("worst-case", EPS, num_images, num_examples=8),
    )


def from_substitute(attack: str) -> str:
    """Value of the ``attack`` column of an attack on the clean substitute."""
    return f"{attack}{ON}{SUBSTITUTES[0]}"


def craft(source: ModelSpec, attack: str, preset: Preset) -> Craft:
    """Adversarial images that fool their source (null is a failure), to be scored on all models."""
    num_images = 1000 if preset == "full" else 400
    return Craft(source, AttackPlan(attack, EPS, num_images, {"objective": "fool"}))


def model_spec(name: str, seed: int, preset: Preset) -> ModelSpec:
    """A model with its way to refuse: CCAT by a threshold, the others by the largest logit."""
    model = training(name, seed, preset)
    return ModelSpec(model, null_rate=CCAT_NULL_RATE if name == "ccat" else None)


def training(name: str, seed: int, preset: Preset) -> Training:
    """The training of one of the models."""
    return Training(
        name=name,
        architecture="notebook",
        dataset="mnist",
        validation=VALIDATION,
        seed=seed,
        weight_decay=1e-4,
        nulls=_nulls(name, seed, preset),
        recipe=_recipe(name, preset),
        has_null=name not in (BASE, "ccat"),
        per_class_null=name == PER_CLASS,
        uniform_targets=name == "ccat",
    )


def _nulls(name: str, seed: int, preset: Preset) -> NullPlan | None:
    if name in PROBABILITIES:
        norm = name.removeprefix("np-")
        maker, settings = MAKERS[norm]
        estimate = Estimate(
            ModelSpec(training(BASE, seed, preset)),
            maker,
            norm,
            num_images=5_000 if preset == "full" else 300,
            settings=settings,
            num_sizes=32 if preset == "full" else 16,
        )
        values = {"perturbation": maker, "perturbation_settings": settings}
        return NullPlan("null-probabilities", values, weight=WEIGHT, estimate=estimate)
    return {
        BASE: None,
        "hard": HARD,
        PER_CLASS: replace(HARD, weight=1.0),
        "ccat": NullPlan("ccat", {"eps": CCAT_EPS, "num_steps": 10, "power": 10.0}, weight=0.5),
        "background": NullPlan("background", {"dataset": BACKGROUND}, weight=0.5),
    }[name]


def _recipe(name: str, preset: Preset) -> Recipe:
    recipe = (FAITHFUL if preset == "full" else FAST)["notebook"]
    if name not in PROBABILITIES:
        return recipe
    # One perturbed image per clean image. The attacks are L-infinity: after one epoch they still
    # fool 2.6 % at eps 0.1 (LOG.md).
    epochs = max(recipe.epochs, 2 if name == "np-linf" else 1)
    return replace(recipe, nulls_per_image=1.0, epochs=epochs)


def substitute(name: str, seed: int, preset: Preset) -> Training:
    """A model of another architecture that the attacker trains on the same data."""
    return Training(
        name=name,
        architecture="small",
        dataset="mnist",
        validation=VALIDATION,
        seed=seed + SUBSTITUTE_SEED,
        weight_decay=0.0,
        nulls=HARD if name == "sub-null" else None,
        recipe=replace(FAST["notebook"], epochs=10 if preset == "full" else 3),
        has_null=name == "sub-null",
    )


def queried(target: ModelSpec, preset: Preset) -> Training:
    """A model that the attacker trains on a target's answers."""
    seed = target.training.seed
    return Training(
        name=f"{QUERIED}-{target.training.name}",
        architecture="small",
        dataset="mnist",
        validation=VALIDATION,
        seed=seed + SUBSTITUTE_SEED,
        weight_decay=0.0,
        nulls=None,
        recipe=Recipe(batch_size=32, epochs=10, learning_rate=1e-3),
        queries=Queries(target, QueryPlan(NUM_SEED_IMAGES, 9600 if preset == "full" else 4800)),
    )


NULL_PROBABILITIES = Study(
    name="null-probabilities",
    package=__package__,
    claim=(
        "A classifier that moves probability smoothly to null as images are perturbed more answers "
        "null to adversarial images that a black-box attacker makes on a substitute."
    ),
    dataset="mnist",
    validation=VALIDATION,
    variants=VARIANTS,
    num_seeds={"quick": 1, "full": 3},
    trials=trials,
    further_data=(BACKGROUND,),
)
