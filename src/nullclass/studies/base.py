"""A study: a claim, the trials that test it, and what its source published. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from nullclass.errors import UserError
from nullclass.recipes import Recipe

Preset = Literal["quick", "full"]


@dataclass(frozen=True)
class NullPlan:
    """Where a trial's null images come from."""

    source: str
    """Name in :data:`nullclass.nulls.NULL_SOURCES`."""
    settings: dict[str, Any]
    """Its settings, by name."""
    weight: float
    """Weight of the null loss (alpha in the notebook)."""


@dataclass(frozen=True)
class AttackPlan:
    """One attack of an evaluation, with everything that makes its numbers repeatable."""

    attack: str
    """Name in :data:`nullclass.attacks.ATTACKS`."""
    eps: tuple[float, ...]
    """Budgets in pixel units."""
    num_images: int
    """How many of the first test images are attacked."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its settings, by name."""
    norm: str = "linf"
    """``linf`` or ``l2``."""


@dataclass(frozen=True)
class Training:
    """Everything that decides a trial's weights, besides the data."""

    architecture: str
    """Name in :data:`nullclass.models.MODELS`."""
    dataset: str
    """Name in :data:`nullclass.data.DATASETS`, or ``idx``."""
    validation: int
    """Training images held out."""
    seed: int
    """Seed of the first weights, the order of images and the null images."""
    weight_decay: float
    """Adam's L2 penalty."""
    nulls: NullPlan | None
    """``None`` trains a model without a null class."""
    recipe: Recipe
    """Batches, epochs, schedule, precision."""


@dataclass(frozen=True)
class Trial:
    """One model to train and evaluate: independent of every other trial."""

    model: str
    """Name of the variant, as in tables."""
    training: Training
    attacks: tuple[AttackPlan, ...]
    num_clean: int
    """How many of the first test images are scored unattacked."""
    num_examples: int = 0
    """How many attacked images are kept for showing."""

    def __post_init__(self) -> None:
        """Refuse plans that rows, which know an attack by its name, could not tell apart."""
        names = [plan.attack for plan in self.attacks]
        if len(set(names)) < len(names) or len({plan.norm for plan in self.attacks}) > 1:
            raise UserError(
                f"trial {self.model!r} plans the attacks {', '.join(names)}: name each attack "
                "once, all in one norm"
            )

    @property
    def seed(self) -> int:
        """The training's seed, which the attacks use too."""
        return self.training.seed


@dataclass(frozen=True)
class Study:
    """What the command line, the sweep and the report know of a study."""

    name: str
    claim: str
    """What is being tested, in a sentence."""
    dataset: str
    """Name of the dataset it was made for."""
    validation: int
    """Training images it holds out; 0 where the source held out none and selected nothing."""
    trials: Callable[[Preset], list[Trial]]
    """The trials of a preset, in the order to run them."""
    published: Callable[[str, str, float, str], float | None]
    """Model, attack, eps in pixel units and metric to the figure its source gives, if any."""
    units: dict[str, float] = field(default_factory=dict)
    """Factors from the source's units to pixel units, to print both."""
