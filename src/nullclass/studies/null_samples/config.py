"""The report's study: null images of three kinds (Roos 2020).

Claim tested: a model trained with null images answers attacked images with null. As published,
attacks are made by FGSM on the base model of the same set and transferred. In addition, a
null-aware attack is made on each model itself, with the same images and budgets. Imports no torch.

The protocol differs from the source in two points. In the source, each set starts at the test image
where the last one stopped (1000 k plus the images skipped), so that every set waits for all sets
before it. Here set k starts at test image 1000 k, modulo the size of the test set: no set waits,
and neighbouring sets share the images that make up for those skipped. And training leaves out 5,000
images, on which the source trains too. They allow an unbiased selection of the epoch, beside the
published one on the test set. The presets quick and full differ in the recipe and in the share of
null images too, and keep the last epoch (:data:`EFFORTS`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nullclass.experiments.config import AttackPlan, NullPlan, ThresholdPlan, Training, Trial
from nullclass.experiments.study import Preset, Study
from nullclass.training.recipes import FAITHFUL, FAST, Recipe

VARIANTS = ("base", "u", "s", "m", "us", "um", "sm", "usm")
"""The models, by the kinds of null images they are trained with."""

BASE = VARIANTS[0]

NULLS: dict[str, tuple[str, dict[str, Any]]] = {
    "u": ("uniform", {}),
    "s": ("tile-shuffle", {"faithful": True}),
    "m": ("mixed", {}),
}
"""The kinds of null images, by their letter: source and settings."""


@dataclass(frozen=True)
class Effort:
    """What a preset trains and how many images it attacks."""

    num_sets: int
    """Default number of sets."""
    recipe: Recipe
    null_share: float
    """Each batch of B images has Binomial(B, share) null images. Null is the easy class: with the
    fast recipe's few epochs the clean images are worth more (LOG.md)."""
    num_curve: int
    """Images attacked at every ε of :data:`CURVE_EPS`."""
    num_at_threshold: int
    """Images of the white-box attack at their thresholds."""
    num_fixed: int
    """Images of the white-box attack at :data:`WHITE_BOX_EPS`."""


EFFORTS: dict[Preset, Effort] = {
    "quick": Effort(3, FAST["report"], 0.3, num_curve=250, num_at_threshold=100, num_fixed=25),
    "full": Effort(30, FAST["report"], 0.3, num_curve=1_000, num_at_threshold=200, num_fixed=200),
    "source": Effort(
        1, FAITHFUL["report"], 0.5, num_curve=1_000, num_at_threshold=200, num_fixed=200
    ),
}
"""``full`` is the source's 240 models by the fast recipe, ``source`` one set by its own recipe."""

TEST, HELD_OUT = "test", "held-out"
"""Images on which the kept epoch is selected: as published, and without bias."""

VALIDATION = 5_000
"""Training images held out; the source trains on them too."""

NUM_IMAGES = 1_000
"""Images attacked in each set."""

CURVE_EPS = tuple(round(0.02 * step, 2) for step in range(51))
"""Budgets of the scores against eps, in pixel units."""

WHITE_BOX_EPS = (0.1, 0.3)
"""Fixed budgets of the worst case, in pixel units."""

FGSM_SETTINGS = {"objective": "untargeted"}
"""The report's FGSM maximises plain cross-entropy."""
TRANSFER = "fgsm"
TRANSFER_AT_THRESHOLD = "fgsm-threshold"
TRANSFER_BEYOND = "fgsm-1.5-thresholds"
WHITE_BOX_AT_THRESHOLD = "worst-case-threshold"
"""Names of the attacks in rows."""

SHOWN = 30
"""Attacked images in each of the report's galleries."""


def trials(preset: Preset, seeds: Sequence[int], variants: Sequence[str]) -> list[Trial]:
    """One trial per set and variant; two where the epoch is selected on two sets of images."""
    planned = []
    for seed in seeds:
        for selection in selections(preset):
            base = _trial(BASE, seed, preset, selection, None)
            for variant in variants:
                source = None if variant == BASE else base
                trial = base if source is None else _trial(variant, seed, preset, selection, source)
                planned.append(trial)
    return planned


def selections(preset: Preset) -> tuple[str, ...]:
    """The selections evaluated: where only the last epoch is a candidate, they are one."""
    return (TEST, HELD_OUT) if EFFORTS[preset].recipe.selects_epoch else (TEST,)


def _trial(variant: str, seed: int, preset: Preset, selection: str, source: Trial | None) -> Trial:
    is_base = source is None
    thresholds = ThresholdPlan((NUM_IMAGES * seed) % 10_000, NUM_IMAGES) if is_base else None
    return Trial(
        training(variant, seed, preset),
        _attacks(preset, selection, is_base),
        num_clean=10_000,
        selection=selection,
        thresholds=thresholds,
        source=source,
    )


def training(variant: str, seed: int, preset: Preset) -> Training:
    """The training of one model of one set."""
    effort = EFFORTS[preset]
    kinds = {NULLS[letter][0]: NULLS[letter][1] for letter in variant if variant != BASE}
    return Training(
        name=variant,
        architecture="report",
        dataset="mnist",
        validation=VALIDATION,
        seed=seed,
        weight_decay=0.0,
        nulls=NullPlan("any-of", {"sources": kinds}, replace_rate=effort.null_share)
        if kinds
        else None,
        recipe=effort.recipe,
        has_null=True,
        selections=selections(preset),
    )


def _attacks(preset: Preset, selection: str, is_base: bool) -> tuple[AttackPlan, ...]:
    effort = EFFORTS[preset]
    fgsm = partial(AttackPlan, "fgsm", settings=FGSM_SETTINGS, is_transfer=not is_base)
    plans = [fgsm((), NUM_IMAGES, label=TRANSFER_AT_THRESHOLD, num_examples=SHOWN)]
    if selection == HELD_OUT:  # enough to see what selecting on the test set does
        return tuple(plans)
    if is_base:
        plans.append(fgsm((), SHOWN, label=TRANSFER_BEYOND, factor=1.5, num_examples=SHOWN))
    worst_case = partial(AttackPlan, "worst-case")
    plans += [
        fgsm(CURVE_EPS, effort.num_curve, label=TRANSFER),
        worst_case((), effort.num_at_threshold, label=WHITE_BOX_AT_THRESHOLD, num_examples=SHOWN),
        worst_case(WHITE_BOX_EPS, effort.num_fixed),
    ]
    return tuple(plans)


AT_THRESHOLD: dict[str, dict[str, tuple[float, float]]] = {
    "base": {"correct": (0.0, 0.0), "fooled": (1.0, 0.0), "null": (0.0, 0.0)},
    "u": {"correct": (0.788, 0.076), "fooled": (0.191, 0.085), "null": (0.020, 0.034)},
    "s": {"correct": (0.600, 0.125), "fooled": (0.097, 0.073), "null": (0.303, 0.099)},
    "us": {"correct": (0.544, 0.156), "fooled": (0.095, 0.052), "null": (0.361, 0.177)},
    "m": {"correct": (0.043, 0.016), "fooled": (0.030, 0.012), "null": (0.927, 0.021)},
    "um": {"correct": (0.052, 0.025), "fooled": (0.026, 0.011), "null": (0.922, 0.032)},
    "sm": {"correct": (0.078, 0.049), "fooled": (0.013, 0.010), "null": (0.909, 0.056)},
    "usm": {"correct": (0.072, 0.059), "fooled": (0.012, 0.012), "null": (0.917, 0.069)},
}
"""The report's scores at threshold, mean and sd over 30 sets, as shares; its "misclassified" is
fooled here, its "unclassified" null."""

TEST_ACCURACY = {variant: 0.992 if variant == BASE else 0.990 for variant in VARIANTS}
"""Read off the report's bar plot, to about 0.1 points: the mean of the base models, medians of the
others."""


def published(model: str, attack: str, eps_pixels: float, metric: str) -> float | None:
    """The report's figure, or ``None`` where it gives none."""
    if (attack, metric) == ("clean", "correct_rate"):
        return TEST_ACCURACY.get(model)
    if attack == TRANSFER_AT_THRESHOLD and math.isnan(eps_pixels):
        mean, _ = AT_THRESHOLD.get(model, {}).get(metric.removesuffix("_rate"), (None, None))
        return mean
    return None


NULL_SAMPLES = Study(
    name="null-samples",
    package=__package__,
    claim="Training with null images makes attacked images fall into the null class.",
    dataset="mnist",
    validation=VALIDATION,
    variants=VARIANTS,
    num_seeds={preset: effort.num_sets for preset, effort in EFFORTS.items()},
    trials=trials,
    published=published,
)
