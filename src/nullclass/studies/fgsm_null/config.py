"""Trials of the study ``fgsm-null``: a null class learned from FGSM images (the notebook).

Claim: a model with a null class reliably recognises FGSM images, and "the attacks we fail to
recognize are also too weak to actually influence the model". Each model is measured as in the
notebook, then attacked by a null-aware attacker. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nullclass.experiments.config import AttackPlan, NullPlan, Preset, Study, Training, Trial
from nullclass.training.recipes import FAITHFUL, FAST, Recipe

PIXEL = 0.3081
"""Standard deviation of MNIST's pixels: pixel units per unit of the notebook's ε."""

TEST_EPS = (3.0, 2.0, 1.0, 0.5, 0.1, 0.01, 0.001)
"""The notebook's test ε, in its own units."""

WHITE_BOX_EPS = (0.1, 0.154, 0.2, 0.3)
"""Budgets of the worst-case ensemble in pixel units; 0.154 is the notebook's 0.5."""

CHECKED = "null-0.5-wd"
"""The only model checked for red flags in ``quick``, as the checks double its time."""

NULL_WEIGHT = 1 / 11
"""The notebook's α."""


@dataclass(frozen=True)
class Variant:
    """One of the study's models."""

    name: str
    eps: float | None
    """Training ε in the notebook's units; ``None`` for no null class."""
    weight_decay: float


VARIANTS = (
    Variant("clean-wd", None, 1e-4),
    Variant("null-0.5", 0.5, 0.0),
    Variant("null-0.5-wd", 0.5, 1e-4),
    Variant("null-0.01-wd", 0.01, 1e-4),
    Variant("null-0.01", 0.01, 0.0),  # the notebook prints no values for this one
)


def pixels(notebook_eps: float) -> float:
    """ε in pixel units, at most 1, from the notebook's units."""
    return min(round(PIXEL * notebook_eps, 6), 1.0)


def seeds(preset: Preset) -> Sequence[int]:
    """One seed (``quick``) or five (``full``)."""
    return range(5 if preset == "full" else 1)


def trials(preset: Preset, seeds: Sequence[int], variants: Sequence[str]) -> list[Trial]:
    """Trials with the fast recipe (``quick``) or the notebook's own (``full``)."""
    is_full = preset == "full"
    recipe = FAITHFUL["notebook"] if is_full else FAST["notebook"]
    attacks = (
        AttackPlan(
            "fgsm",
            tuple(pixels(eps) for eps in sorted(TEST_EPS)),
            num_images=10_000 if is_full else 2_000,
            settings={"objective": "untargeted"},
            num_examples=8,
        ),
        AttackPlan(
            "worst-case",
            WHITE_BOX_EPS,
            num_images=500 if is_full else 25,  # an active image takes the full ensemble
            num_examples=8,
        ),
    )
    return [
        Trial(
            _training(variant, seed, recipe),
            attacks,
            num_clean=10_000,
            is_checked=is_full or variant.name == CHECKED,
        )
        for seed in seeds
        for variant in VARIANTS
        if variant.name in variants
    ]


def _training(variant: Variant, seed: int, recipe: Recipe) -> Training:
    nulls = None
    if variant.eps is not None:
        settings = {"eps": pixels(variant.eps), "num_steps": 1}
        nulls = NullPlan("adversarial", settings, weight=NULL_WEIGHT)
    return Training(
        name=variant.name,
        architecture="notebook",
        dataset="mnist",
        validation=0,
        seed=seed,
        weight_decay=variant.weight_decay,
        nulls=nulls,
        recipe=recipe,
        has_null=nulls is not None,
    )


def _figures(
    clean: dict[str, float], fgsm: dict[tuple[str, float], float]
) -> dict[tuple[str, float, str], float]:
    figures = {("clean", 0.0, metric): value for metric, value in clean.items()}
    return figures | {("fgsm", pixels(eps), metric): value for (metric, eps), value in fgsm.items()}


PUBLISHED: dict[str, dict[tuple[str, float, str], float]] = {
    "clean-wd": _figures({"correct": 0.9885, "loss": 0.0377}, {}),
    # the middle of two runs of one cell: 98.71 and 98.80 %, losses 0.0474 and 0.0481
    "null-0.5": _figures(
        {"correct": 0.98755, "loss": 0.04775, "not_null": 0.9999},
        {("null", 0.5): 1.0, ("null_loss", 0.5): 0.0},
    ),
    "null-0.5-wd": _figures(
        {"correct": 0.9883, "loss": 0.0415, "not_null": 1.0},
        {
            ("null", 1.0): 1.0,
            ("null", 0.5): 0.9999,
            ("null", 0.1): 0.0021,
            ("null", 0.01): 0.0,
            ("null_loss", 1.0): 0.0,
            ("null_loss", 0.5): 0.0,
            ("null_loss", 0.1): 10.23794,
            ("null_loss", 0.01): 17.07276,
        },
    ),
    "null-0.01-wd": _figures(
        {"correct": 0.9897, "loss": 0.0338, "not_null": 1.0},
        {
            ("null", 3.0): 0.9994,
            ("null", 2.0): 1.0,
            ("null", 1.0): 1.0,
            ("null", 0.5): 1.0,
            ("null", 0.1): 1.0,
            ("null", 0.01): 0.9421,
            ("null", 0.001): 0.0001,
            ("null_loss", 3.0): 0.00625,
            ("null_loss", 2.0): 0.0,
            ("null_loss", 1.0): 0.0,
            ("null_loss", 0.5): 0.0,
            ("null_loss", 0.1): 0.0,
            ("null_loss", 0.01): 0.20607,
            ("null_loss", 0.001): 7.98443,
        },
    ),
}
"""Values in the notebook by model and (attack, ε in pixel units, metric); rates in [0, 1]."""


def published(model: str, attack: str, eps_pixels: float, metric: str) -> float | None:
    """The notebook's value, or ``None``."""
    for (of_attack, eps, of_metric), value in PUBLISHED.get(model, {}).items():
        if (of_attack, of_metric) == (attack, metric.removesuffix("_rate")) and math.isclose(
            eps, eps_pixels, abs_tol=1e-6
        ):
            return value
    return None


FGSM_NULL = Study(
    name="fgsm-null",
    package=__package__,
    claim="A null class learned from FGSM images recognises attacked images.",
    dataset="mnist",
    validation=0,
    variants=tuple(variant.name for variant in VARIANTS),
    seeds=seeds,
    trials=trials,
    published=published,
    units={"pixel_per_notebook_eps": PIXEL},
)
