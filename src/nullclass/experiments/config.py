"""A study: a claim, the trials that test it, and what its source published. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nullclass.core.errors import UserError
from nullclass.results.schema import LAST
from nullclass.training.queries import QueryPlan
from nullclass.training.recipes import Recipe

Preset = Literal["quick", "full"]


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
    estimate: Estimate | None = None
    """Where the source's ``curve`` comes from, if it is to be estimated first."""

    def __post_init__(self) -> None:
        """Refuse a plan that says neither or both."""
        if (self.weight is None) == (self.share is None):
            raise UserError("null images need either a weight (beside the batch) or a share of it")


@dataclass(frozen=True)
class RobustPlan:
    """A loss that is trained on instead of the clean one."""

    loss: str
    """Name in :data:`nullclass.training.robust.ROBUST_LOSSES`."""
    settings: dict[str, Any]
    """Its settings, by name."""


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
    per_class_null: bool = False
    """Whether there is a null logit for each class, and an image that is null goes to the one of
    its class (2N labelling), instead of one for all."""
    uniform_targets: bool = False
    """Whether, without a null class, null's share of a target is spread over all classes
    (:class:`nullclass.training.loop.TrainConfig`)."""
    robust: RobustPlan | None = None
    """Trains on a robust loss, without null images."""
    queries: Queries | None = None
    """Trains on what another model answers, instead of on the dataset's training images."""

    def __post_init__(self) -> None:
        """Refuse to go on from weights that are not kept, and questions beside null images."""
        if self.start is not None and self.start.selections:
            raise UserError(f"{self.name!r} goes on from a training that keeps no last epoch")
        if self.robust is not None and self.nulls is not None:
            raise UserError(f"{self.name!r} has a robust loss: it takes no null images")
        if self.queries is not None and (
            self.nulls or self.selections or self.start or self.robust
        ):
            raise UserError(
                f"{self.name!r} learns another model's answers: it takes no null images, no "
                "selections, no former weights and no robust loss"
            )

    @property
    def variant(self) -> str:
        """Name and seed."""
        return f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class ModelSpec:
    """A trained model as it answers."""

    training: Training
    selection: str = LAST
    """Which of the training's weights: ``last``, or one of its selections."""
    null_rate: float | None = None
    """Answers null by a threshold that refuses this share of clean held-out images
    (:func:`nullclass.rejection.threshold.calibrate`); unless given, the largest logit decides."""
    radius: float | None = None
    """Answers only what is proved within this radius, L∞ in pixel units
    (:class:`nullclass.rejection.provable.ProvableNull`)."""

    def __post_init__(self) -> None:
        """Refuse weights that are not kept, and two ways to refuse."""
        if self.radius is not None and (self.training.has_null or self.null_rate is not None):
            raise UserError(
                f"{self.training.name!r} is to refuse what is not proved: then it has no null "
                "class, and no threshold"
            )
        kept = self.training.selections or (LAST,)
        if self.selection not in kept:
            raise UserError(
                f"the weights {self.selection!r} of {self.training.name!r} are wanted, its "
                f"training keeps {', '.join(kept)}"
            )


@dataclass(frozen=True)
class Estimate:
    """A null curve to be estimated: how often perturbations of each size fool a model.

    On held-out images (:func:`nullclass.nulls.estimate_curve.estimate_curve`).
    """

    model: ModelSpec
    perturbation: str
    """Name in :data:`nullclass.nulls.perturb.PERTURBATIONS`."""
    norm: str
    """How sizes are told: ``linf``, ``l2`` or ``l0``."""
    num_images: int
    """How many of the held-out images are perturbed, from the first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The maker's settings, by name."""
    num_sizes: int = 32
    """Points of the curve."""
    always: float = 0.99
    """The share fooled that counts as always."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.model.training.name}-{self.perturbation}-{self.norm}"

    @property
    def seed(self) -> int:
        """The training's."""
        return self.model.training.seed


@dataclass(frozen=True)
class Queries:
    """Whom a substitute's training asks, and how often (:mod:`nullclass.training.substitutes`)."""

    target: ModelSpec
    plan: QueryPlan = field(default_factory=QueryPlan)


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
class Craft:
    """Attacked images of one model, kept to be tried out on others."""

    source: ModelSpec
    plan: AttackPlan
    """Its budgets are given, not each image's own."""

    def __post_init__(self) -> None:
        """Refuse a plan without budgets."""
        if not self.plan.eps or self.plan.is_transfer:
            raise UserError(f"images made on {self.source_name!r} need budgets, and are made there")

    @property
    def source_name(self) -> str:
        """The source's name in rows."""
        return self.source.training.name

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.source_name}-{self.plan.name}"

    @property
    def seed(self) -> int:
        """The source's, which the attack uses too."""
        return self.source.training.seed


@dataclass(frozen=True)
class SizePlan:
    """Perturbations of several sizes, to see where a model's probability goes."""

    perturbation: str
    """Name in :data:`nullclass.nulls.perturb.PERTURBATIONS`."""
    norm: str
    """How sizes are told: ``linf``, ``l2`` or ``l0``."""
    sizes: tuple[float, ...]
    """Rising, in units of the norm."""
    num_images: int
    """How many of the first test images are perturbed."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The maker's settings, by name."""


@dataclass(frozen=True)
class ProofPlan:
    """What is to be proved of a model (:func:`nullclass.scoring.proofs.prove`)."""

    eps: tuple[float, ...]
    """Budgets in pixel units."""
    num_images: int
    """Of how many of the first test images."""
    norm: str = "linf"
    """``linf`` or ``l2``."""
    verifier: str = "interval"
    """Name in :data:`nullclass.certify.verifiers.VERIFIERS`."""

    def __post_init__(self) -> None:
        """Refuse a plan that proves nothing."""
        if not self.eps:
            raise UserError("give at least one eps to prove something at")


@dataclass(frozen=True)
class ThresholdPlan:
    """Which images are attacked: those the model gets right and one FGSM ray gets wrong.

    The protocol is the report's (:mod:`nullclass.scoring.fgsm_thresholds`).
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
    null_rate: float | None = None
    """As of :class:`ModelSpec`."""
    crafted: tuple[Craft, ...] = ()
    """Images attacked on other models, tried out on this one; named by attack and source in
    rows."""
    sizes: tuple[SizePlan, ...] = ()
    """Perturbations made on this model, by size."""
    radius: float | None = None
    """As of :class:`ModelSpec`."""
    proofs: tuple[ProofPlan, ...] = ()
    """What is proved of it, beside the attacks."""
    radii: tuple[float, ...] = ()
    """Other radii that it is asked about clean images with, in pixel units, if it has a radius
    (:mod:`nullclass.scoring.by_radius`)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done, or what rows, by attacks' names, could not tell apart."""
        names = [plan.name for plan in self.attacks] + [name_of(craft) for craft in self.crafted]
        if len(set(names)) < len(names):
            raise UserError(
                f"trial {self.model!r} plans the attacks {', '.join(names)}: give each a label of "
                "its own"
            )
        if len({plan.norm for plan in (*self.attacks, *(c.plan for c in self.crafted))}) > 1:
            raise UserError(f"trial {self.model!r} plans attacks in two norms: make two trials")
        if self.radii and self.radius is None:
            raise UserError(
                f"trial {self.model!r} asks with other radii, but its model has none: give it a "
                "radius, or leave radii out"
            )
        self.model_spec  # noqa: B018 - refuses weights that are not kept
        if any(plan.is_transfer for plan in self.attacks) and self.source is None:
            raise UserError(f"trial {self.model!r} transfers attacks from no source")
        if any(not plan.eps for plan in self.attacks) and self.images_from is None:
            raise UserError(f"trial {self.model!r} attacks images at thresholds it does not have")

    @property
    def model(self) -> str:
        """Name of the variant, as in tables."""
        return self.training.name

    @property
    def model_spec(self) -> ModelSpec:
        """The model that is tried."""
        return ModelSpec(self.training, self.selection, self.null_rate, self.radius)

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


Config = Training | Estimate | Craft | Trial
"""What a sweep can be given to do."""


def name_of(craft: Craft) -> str:
    """The name, in rows, of images attacked on another model."""
    return f"{craft.plan.name} on {craft.source_name}"


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
    further_data: tuple[str, ...] = ()
    """Names of other datasets that its trainings draw on: fetched before anything is begun."""
    units: dict[str, float] = field(default_factory=dict)
    """Factors from the source's units to pixel units, to print both."""
    package: str = ""
    """Package of the study, whose module ``page`` draws its report."""
