"""A study: a claim, the trials that test it, and what its source published. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nullclass.errors import UserError
from nullclass.recipes import Recipe

Preset = Literal["quick", "full"]

LAST = "last"
"""The weights after the last epoch, kept by a training that selects on nothing."""


@dataclass(frozen=True)
class NullPlan:
    """Where a training's null images come from, and how they enter: beside or within a batch."""

    source: str
    """Name in :data:`nullclass.nulls.NULL_SOURCES`."""
    settings: dict[str, Any]
    """Its settings, by name."""
    weight: float | None = None
    """Null images are made beside each batch, and this is the weight of their loss (the notebook's
    alpha)."""
    share: float | None = None
    """Null images take the place of Binomial(batch, share) images of each batch (the report)."""

    def __post_init__(self) -> None:
        """Refuse a plan that says neither or both."""
        if (self.weight is None) == (self.share is None):
            raise UserError("null images need either a weight (beside the batch) or a share of it")


@dataclass(frozen=True)
class Training:
    """Everything that decides a model's weights, besides the data."""

    name: str
    """Name of the variant, as in tables."""
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
    """``None`` trains without null images."""
    recipe: Recipe
    """Batches, epochs, schedule, precision."""
    has_null: bool = True
    """Whether the model has the null logit; the report's base model has it untrained."""
    selections: tuple[str, ...] = ()
    """Images on which the best epoch is looked for, and kept instead of the last: ``test`` or
    ``held-out``, mixed 1:1 with null images."""
    start: Training | None = None
    """A training whose weights this one goes on from."""

    def __post_init__(self) -> None:
        """Refuse to go on from weights that are not kept."""
        if self.start is not None and self.start.selections:
            raise UserError(f"{self.name!r} goes on from a training that keeps no last epoch")

    @property
    def variant(self) -> str:
        """Name and seed."""
        return f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class AttackPlan:
    """One attack of an evaluation, with everything that makes its numbers repeatable."""

    attack: str
    """Name in :data:`nullclass.attacks.ATTACKS`."""
    eps: tuple[float, ...]
    """Budgets in pixel units; empty gives each image its own threshold as its budget."""
    num_images: int
    """How many of the images to attack, from the first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its settings, by name."""
    norm: str = "linf"
    """``linf`` or ``l2``."""
    label: str = ""
    """Its name in rows; the attack's own unless given."""
    factor: float = 1.0
    """With each image's own threshold: how many thresholds its budget is, at most eps 1."""
    is_transfer: bool = False
    """Whether it is made on the trial's source instead of the model itself."""
    num_examples: int = 0
    """How many attacked images are kept for showing, at every budget."""

    def __post_init__(self) -> None:
        """Refuse budgets out of order: what succeeds at a smaller one counts at a larger."""
        if any(low >= high for low, high in itertools.pairwise(self.eps)):
            raise UserError(f"the budgets of {self.attack!r} must rise: {self.eps}")

    @property
    def name(self) -> str:
        """Its name in rows."""
        return self.label or self.attack


@dataclass(frozen=True)
class ThresholdPlan:
    """Which images are attacked: those the model gets right and one FGSM ray gets wrong.

    The protocol is the report's (:mod:`nullclass.thresholds`).
    """

    first_image: int
    """Test image to begin at; the search goes round at the end."""
    num_images: int
    """How many images to find."""


@dataclass(frozen=True)
class Trial:
    """One trained model to evaluate."""

    training: Training
    attacks: tuple[AttackPlan, ...]
    num_clean: int
    """How many of the first test images are scored unattacked."""
    selection: str = LAST
    """Which of the training's weights: ``last``, or one of its selections."""
    thresholds: ThresholdPlan | None = None
    """Looks for the images to attack and their thresholds on this trial's model."""
    source: Trial | None = None
    """The trial that transfers are made on; its images are attacked if it looked for some."""
    is_checked: bool = False
    """Whether red flags are looked for, which asks the model some more."""
    decision_grid: int = 0
    """Points a side of a grid over the unit cube on which the model is asked; for three pixels."""

    def __post_init__(self) -> None:
        """Refuse plans that rows, which know an attack by its name, could not tell apart."""
        names = [plan.name for plan in self.attacks]
        if len(set(names)) < len(names):
            raise UserError(
                f"trial {self.model!r} plans the attacks {', '.join(names)}: give each a label of "
                "its own"
            )
        if len({plan.norm for plan in self.attacks}) > 1:
            raise UserError(f"trial {self.model!r} plans attacks in two norms: make two trials")
        if self.selection not in (self.training.selections or (LAST,)):
            raise UserError(
                f"trial {self.model!r} wants the weights {self.selection!r}, its training keeps "
                f"{', '.join(self.training.selections or (LAST,))}"
            )
        if any(plan.is_transfer for plan in self.attacks) and self.source is None:
            raise UserError(f"trial {self.model!r} transfers attacks from no source")
        if any(not plan.eps for plan in self.attacks) and self.images_from is None:
            raise UserError(f"trial {self.model!r} attacks images at thresholds it does not have")

    @property
    def model(self) -> str:
        """Name of the variant, as in tables."""
        return self.training.name

    @property
    def seed(self) -> int:
        """The training's seed, which the attacks use too."""
        return self.training.seed

    @property
    def images_from(self) -> Trial | None:
        """The trial whose thresholds say which images are attacked, if any does."""
        if self.thresholds is not None:
            return self
        if self.source is not None and self.source.thresholds is not None:
            return self.source
        return None


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
    variants: tuple[str, ...]
    """Names of its models, in the order of tables."""
    seeds: Callable[[Preset], Sequence[int]]
    """The seeds (the report's sets) of a preset."""
    trials: Callable[[Preset, Sequence[int], Sequence[str]], list[Trial]]
    """The trials of a preset for some seeds and variants, in the order to run them."""
    published: Callable[[str, str, float, str], float | None] = lambda *_: None
    """Model, attack, eps in pixel units (NaN for thresholds) and metric to the figure its source
    gives, if any."""
    units: dict[str, float] = field(default_factory=dict)
    """Factors from the source's units to pixel units, to print both."""
