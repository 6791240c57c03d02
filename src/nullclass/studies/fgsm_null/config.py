"""Trials of the study ``fgsm-null``: a null class learned from FGSM images (the notebook).

Claim: a model with a null class reliably recognises FGSM images, and "the attacks we fail to
recognize are also too weak to actually influence the model". Each model is measured as in the
notebook, then attacked by a null-aware attacker. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from nullclass.experiments.config import AttackPlan, NullPlan, Training, Trial
from nullclass.experiments.study import Preset, Study
from nullclass.training.recipes import FAITHFUL, FAST

PIXEL = 0.3081
"""Standard deviation of MNIST's pixels: pixel units per unit of the notebook's ε."""

TEST_EPS = (3.0, 2.0, 1.0, 0.5, 0.1, 0.01, 0.001)
"""The notebook's test ε, in its own units."""

WHITE_BOX_EPS = (0.1, 0.154, 0.2, 0.3)
"""Budgets of the worst-case ensemble in pixel units; 0.154 is the notebook's 0.5. The first, where
images survive, costs ten times as much as the others together: it belongs to ``full``."""

NULL_WEIGHT = 1 / 11
"""The notebook's α."""


VARIANTS: dict[str, tuple[float | None, float]] = {
    "clean-wd": (None, 1e-4),
    "null-0.5": (0.5, 0.0),
    "null-0.5-wd": (0.5, 1e-4),
    "null-0.01-wd": (0.01, 1e-4),
    "null-0.01": (0.01, 0.0),  # not in the notebook, so only in the preset full
}
"""Training ε in the notebook's units (``None``: no null class) and weight decay of each model."""


def pixels(notebook_eps: float) -> float:
    """ε in pixel units, at most 1, from the notebook's units."""
    return min(round(PIXEL * notebook_eps, 6), 1.0)


def trials(preset: Preset, seeds: Sequence[int], variants: Sequence[str]) -> list[Trial]:
    """Trials with the fast recipe (``quick``) or the notebook's own (``full``)."""
    is_full = preset == "full"
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
            WHITE_BOX_EPS if is_full else WHITE_BOX_EPS[1:],
            num_images=1000 if is_full else 500,
            num_examples=8,
        ),
    )
    return [
        Trial(
            _training(variant, seed, preset),
            attacks,
            num_clean=10_000,
            is_checked=True,
        )
        for seed in seeds
        for variant in (VARIANTS if is_full else PUBLISHED_CLEAN)
        if variant in variants
    ]


def _training(variant: str, seed: int, preset: Preset) -> Training:
    eps, weight_decay = VARIANTS[variant]
    recipe = FAITHFUL["notebook"]
    if preset == "quick":
        # a null class at ε 0.01 emerges late in the first epoch, or not at all (LOG.md)
        recipe = replace(FAST["notebook"], epochs=2 if eps == 0.01 else 1)
    nulls = None
    if eps is not None:
        settings = {"eps": pixels(eps), "num_steps": 1}
        nulls = NullPlan("adversarial", settings, weight=NULL_WEIGHT)
    return Training(
        name=variant,
        architecture="notebook",
        dataset="mnist",
        validation=0,
        seed=seed,
        weight_decay=weight_decay,
        nulls=nulls,
        recipe=recipe,
        has_null=nulls is not None,
    )


PUBLISHED_CLEAN: dict[str, dict[str, float | tuple[float, float]]] = {
    "clean-wd": {"correct": 0.9885, "loss": 0.0377},
    "null-0.5": {"correct": (0.9871, 0.9880), "loss": (0.0474, 0.0481), "not_null": 0.9999},
    "null-0.5-wd": {"correct": 0.9883, "loss": 0.0415, "not_null": 1.0},
    "null-0.01-wd": {"correct": 0.9897, "loss": 0.0338, "not_null": 1.0},
}
"""The notebook's values on clean images by model and metric; a range where it ran a cell twice."""
PUBLISHED_FGSM = {
    "null-0.5": {0.5: (1.0, 0.0)},
    "null-0.5-wd": {
        1.0: (1.0, 0.0),
        0.5: (0.9999, 0.0),
        0.1: (0.0021, 10.23794),
        0.01: (0.0, 17.07276),
    },
    "null-0.01-wd": {
        3.0: (0.9994, 0.00625),
        2.0: (1.0, 0.0),
        1.0: (1.0, 0.0),
        0.5: (1.0, 0.0),
        0.1: (1.0, 0.0),
        0.01: (0.9421, 0.20607),
        0.001: (0.0001, 7.98443),
    },
}
"""The notebook's null rate and null loss of FGSM images by model and ε in its units."""


def published(model: str, attack: str, eps_pixels: float, metric: str) -> float | None:
    """The notebook's value, or ``None``; of a range, the middle."""
    name = metric.removesuffix("_rate")
    if attack == "clean":
        value = PUBLISHED_CLEAN.get(model, {}).get(name)
        return sum(value) / 2 if isinstance(value, tuple) else value
    if attack == "fgsm" and name in ("null", "null_loss"):
        for eps, (null_rate, null_loss) in PUBLISHED_FGSM.get(model, {}).items():
            if math.isclose(pixels(eps), eps_pixels, abs_tol=1e-6):
                return null_rate if name == "null" else null_loss
    return None


FGSM_NULL = Study(
    name="fgsm-null",
    package=__package__,
    claim="A null class learned from FGSM images recognises attacked images.",
    dataset="mnist",
    validation=0,
    variants=tuple(VARIANTS),
    num_seeds={"quick": 1, "full": 5},
    trials=trials,
    published=published,
)
