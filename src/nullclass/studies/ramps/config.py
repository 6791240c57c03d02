"""Trials of the study ``ramps``: images of three pixels, two classes and null (Roos 2020).

Claim: null images keep the regions of the real classes small. All images form a cube, so a model's
prediction at every point can be drawn. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from nullclass.experiments.config import NullPlan, Training, Trial
from nullclass.experiments.study import Preset, Study
from nullclass.training.recipes import Recipe

VARIANTS = ("base", "uniform", "shuffled")
"""The models. The source generates shuffled null images too, but shows no result for them."""

BASE_EPOCHS, NULL_EPOCHS = 20, 30
"""The null models continue from base."""

GRID = 49
"""Grid points per side of the cube at which models are evaluated."""

NULL_SHARE = 0.5


def trials(preset: Preset, seeds: Sequence[int], variants: Sequence[str]) -> list[Trial]:
    """Trials with half the epochs in larger batches (``quick``) or the source's recipe."""
    return [
        Trial(_training(variant, seed, preset), (), num_clean=4_000, decision_grid=GRID)
        for seed in seeds
        for variant in variants
    ]


def _training(variant: str, seed: int, preset: Preset) -> Training:
    sources = {"uniform": {}, "shuffled": {"sides": [1], "faithful": True}}
    names = {"uniform": "uniform", "shuffled": "tile-shuffle"}
    is_base = variant == VARIANTS[0]
    nulls = None if is_base else NullPlan(names[variant], sources[variant], replace_rate=NULL_SHARE)
    return Training(
        name=variant,
        architecture="ramp",
        dataset="ramps",
        validation=0,
        seed=seed,
        weight_decay=0.0,
        nulls=nulls,
        recipe=_recipe(BASE_EPOCHS if is_base else NULL_EPOCHS, preset),
        start=None if is_base else _training(VARIANTS[0], seed, preset),
    )


def _recipe(epochs: int, preset: Preset) -> Recipe:
    if preset == "full":
        return Recipe(batch_size=32, epochs=epochs, learning_rate=1e-3)
    return Recipe(batch_size=128, epochs=epochs // 2, learning_rate=4e-3, schedule="triangle")


RAMPS = Study(
    name="ramps",
    package=__package__,
    claim="Null images keep the regions of the real classes small.",
    dataset="ramps",
    validation=0,
    variants=VARIANTS,
    num_seeds={"quick": 1, "full": 5},
    trials=trials,
)
