"""Configs of jobs: frozen dataclasses that describe trainings, attacks and trials.

Imports no torch.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from nullclass.core.errors import UserError
from nullclass.experiments.detector_plan import DetectorPlan
from nullclass.results.schema import LAST
from nullclass.training.queries import QueryPlan
from nullclass.training.recipes import Recipe


@dataclass(frozen=True)
class NullPlan:
    """The null images of a training: their source, and how they enter a batch."""

    source: str
    """Name in :data:`nullclass.nulls.NULL_SOURCES`."""
    settings: dict[str, Any]
    """Keyword arguments of the source."""
    weight: float | None = None
    """Appends null images to each batch; the weight of their loss (alpha in the notebook)."""
    replace_rate: float | None = None
    """Replaces Binomial(batch size, rate) images of each batch by null images (the report)."""
    estimate: Estimate | None = None
    """The null curve to estimate first and pass to the source as ``curve``."""

    def __post_init__(self) -> None:
        if (self.weight is None) == (self.replace_rate is None):
            raise UserError("null images need either a weight or a replace_rate")


@dataclass(frozen=True)
class RobustPlan:
    """A robust loss, trained on instead of the clean loss."""

    loss: str
    """Name in :data:`nullclass.training.robust.ROBUST_LOSSES`."""
    settings: dict[str, Any]
    """Keyword arguments of the loss."""


@dataclass(frozen=True)
class Training:
    """Everything that decides a model's weights, except the data."""

    name: str
    """Name of the variant, as in tables."""
    architecture: str
    """Name in :data:`nullclass.models.ARCHITECTURES`."""
    dataset: str
    """Name of the dataset (:attr:`nullclass.data.Dataset.name`)."""
    validation: int
    """Number of training images held out."""
    seed: int
    """Seed of the initial weights, the order of images and the null images."""
    weight_decay: float
    """L2 penalty of Adam."""
    nulls: NullPlan | None
    """``None`` trains without null images."""
    recipe: Recipe
    """Batch size, epochs, schedule, precision."""
    has_null: bool = True
    """Whether the model has a null logit."""
    selections: tuple[str, ...] = ()
    """Image sets (``test``, ``held-out``) on which the best epoch is selected, each mixed 1:1 with
    null images. The training keeps one checkpoint per set instead of the last epoch."""
    start: Training | None = None
    """A training whose final weights are the initial weights."""
    per_class_null: bool = False
    """Whether there is one null logit per class (2N labelling)."""
    uniform_targets: bool = False
    """Whether a model without null class learns uniform targets on null images
    (:class:`nullclass.training.config.TrainConfig`)."""
    robust: RobustPlan | None = None
    """Trains on a robust loss, without null images."""
    queries: Queries | None = None
    """Trains on the answers of another model instead of on the training images."""

    def __post_init__(self) -> None:
        if self.start is not None and self.start.selections:
            raise UserError(f"{self.name!r} starts from a training that keeps no last epoch")
        if self.robust is not None and self.nulls is not None:
            raise UserError(f"{self.name!r} has a robust loss, so it takes no null images")
        others = (self.nulls, self.selections, self.start, self.robust)
        if self.queries is not None and any(others):
            raise UserError(
                f"{self.name!r} learns another model's answers: it takes no null images, no "
                "selections, no initial weights and no robust loss"
            )

    def selected_on(self, selection: str) -> str | None:
        """Return the images that chose the epoch of a selection; None for the last epoch."""
        return selection if selection != LAST and self.recipe.selects_epoch else None


@dataclass(frozen=True)
class ModelSpec:
    """A trained model together with its way to refuse."""

    training: Training
    selection: str = LAST
    """Which checkpoint of the training: ``last``, or one of its selections."""
    null_rate: float | None = None
    """Share of clean held-out images that a threshold refuses
    (:func:`nullclass.rejection.threshold.calibrate`); ``None`` decides by argmax."""
    radius: float | None = None
    """Answers only what is proved within this radius, L∞ in pixel units
    (:class:`nullclass.rejection.provable.ProvableNull`)."""
    verifier: str = "interval"
    """What proves the answers within the radius, and a trial's proofs."""
    detector: DetectorPlan | None = None
    """Answers null where its score exceeds a threshold: that of ``null_rate``, or 0."""

    def __post_init__(self) -> None:
        if self.detector is not None and (self.training.has_null or self.radius is not None):
            raise UserError(f"{self.training.name!r} has a detector, so it has no other null")
        if self.radius is not None and (self.training.has_null or self.null_rate is not None):
            name = self.training.name
            raise UserError(f"{name!r} refuses what is not proved: no null class, no threshold")
        kept = self.training.selections or (LAST,)
        if self.selection not in kept:
            raise UserError(
                f"{self.training.name!r} has no checkpoint {self.selection!r}: its training keeps "
                f"{', '.join(kept)}"
            )


@dataclass(frozen=True)
class Estimate:
    """A null curve to estimate: how often perturbations of each size fool a model.

    Uses held-out images (:func:`nullclass.nulls.estimate_curve.estimate_curve`).
    """

    model: ModelSpec
    perturbation: str
    """Name in :data:`nullclass.nulls.perturb.PERTURBATIONS`."""
    norm: str
    """Norm of the sizes: ``linf``, ``l2`` or ``l0``."""
    num_images: int
    """Perturbs this many held-out images, from the first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the perturbation."""
    num_sizes: int = 32
    """Points of the curve."""

    @property
    def name(self) -> str:
        """Model, perturbation and norm."""
        return f"{self.model.training.name}-{self.perturbation}-{self.norm}"

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.model.training.seed


@dataclass(frozen=True)
class Queries:
    """The model that a substitute learns from, and the query budget
    (:mod:`nullclass.training.substitutes`).
    """

    target: ModelSpec
    plan: QueryPlan = field(default_factory=QueryPlan)


@dataclass(frozen=True)
class AttackPlan:
    """One attack of an evaluation."""

    attack: str
    """Name in :data:`nullclass.attacks.ATTACKS`."""
    eps: tuple[float, ...]
    """Budgets in pixel units, rising; empty uses each image's own threshold."""
    num_images: int
    """Attacks this many images, from the first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the attack."""
    norm: str = "linf"
    """``linf`` or ``l2``."""
    label: str = ""
    """Value of the ``attack`` column; empty uses the attack's name."""
    factor: float = 1.0
    """Multiplies each image's own threshold; the product is at most 1."""
    is_transfer: bool = False
    """Whether to attack the trial's source instead of the model itself."""
    num_examples: int = 0
    """Adversarial images kept for the report, per budget."""

    def __post_init__(self) -> None:
        if any(low >= high for low, high in itertools.pairwise(self.eps)):
            raise UserError(f"the budgets of {self.attack!r} must rise: {self.eps}")

    @property
    def name(self) -> str:
        """Value of the ``attack`` column."""
        return self.label or self.attack


@dataclass(frozen=True)
class Craft:
    """Adversarial images of one model, kept to be scored on others."""

    source: ModelSpec
    plan: AttackPlan
    """With budgets."""

    def __post_init__(self) -> None:
        if not self.plan.eps or self.plan.is_transfer:
            raise UserError(
                f"images crafted on {self.source_name!r} need budgets, and no other source"
            )

    @property
    def source_name(self) -> str:
        """Value of the ``source`` column."""
        return self.source.training.name

    @property
    def name(self) -> str:
        """Source and attack."""
        return f"{self.source_name}-{self.plan.name}"

    @property
    def attack_name(self) -> str:
        """Value of the ``attack`` column."""
        return f"{self.plan.name} on {self.source_name}"

    @property
    def seed(self) -> int:
        """Seed of the source and of the attack."""
        return self.source.training.seed


@dataclass(frozen=True)
class SizePlan:
    """Perturbations of several sizes, to record where a model's probability goes."""

    perturbation: str
    """Name in :data:`nullclass.nulls.perturb.PERTURBATIONS`."""
    norm: str
    """Norm of the sizes: ``linf``, ``l2`` or ``l0``."""
    sizes: tuple[float, ...]
    """Rising, in units of the norm."""
    num_images: int
    """Perturbs this many test images, from the first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the perturbation."""


@dataclass(frozen=True)
class ProofPlan:
    """What to prove, L∞, by the model's verifier (:func:`nullclass.scoring.proofs.prove`)."""

    eps: tuple[float, ...]
    """Budgets in pixel units."""
    num_images: int
    """Number of test images, from the first."""

    def __post_init__(self) -> None:
        if not self.eps:
            raise UserError("a proof needs at least one eps")


@dataclass(frozen=True)
class ThresholdPlan:
    """Search for images that the model classifies correctly and one FGSM step fools.

    The protocol is the report's (:mod:`nullclass.scoring.fgsm_thresholds`).
    """

    first_image: int
    """Test image at which the search begins; it wraps around at the end."""
    num_images: int
    """Number of images to find."""


@dataclass(frozen=True)
class Trial:
    """The evaluation of one trained model."""

    training: Training
    attacks: tuple[AttackPlan, ...]
    num_clean: int
    """Scores this many test images without an attack, from the first."""
    selection: str = LAST
    """See :class:`ModelSpec`."""
    thresholds: ThresholdPlan | None = None
    """Searches the images to attack, and their thresholds, on this trial's model."""
    source: Trial | None = None
    """The trial whose model transfer attacks use. If it searched images, those are attacked."""
    is_checked: bool = False
    """Whether to look for red flags."""
    decision_grid: int = 0
    """Predicts on a grid over the unit cube with this many points per axis; for three pixels."""
    null_rate: float | None = None
    """See :class:`ModelSpec`."""
    crafted: tuple[Craft, ...] = ()
    """Adversarial images of other models to score on this one."""
    sizes: tuple[SizePlan, ...] = ()
    """Perturbations of this model, by size."""
    radius: float | None = None
    """See :class:`ModelSpec`."""
    verifier: str = "interval"
    """See :class:`ModelSpec`."""
    detector: DetectorPlan | None = None
    """See :class:`ModelSpec`."""
    label: str = ""
    """Value of the ``model`` column; empty uses the training's name."""
    proofs: tuple[ProofPlan, ...] = ()
    """What to prove of the model."""
    radii: tuple[float, ...] = ()
    """Other radii in pixel units at which a model with a radius answers clean images."""

    def __post_init__(self) -> None:
        names = [plan.name for plan in self.attacks] + [craft.attack_name for craft in self.crafted]
        plans = (*self.attacks, *(craft.plan for craft in self.crafted))
        if len(set(names)) < len(names):
            raise UserError(
                f"trial {self.model!r} names two attacks alike ({', '.join(names)}): give each its "
                "own label"
            )
        if len({plan.norm for plan in plans}) > 1:
            raise UserError(f"trial {self.model!r} has two norms: make two trials with own labels")
        if self.radii and self.radius is None:
            raise UserError(f"trial {self.model!r} has other radii, but its model has no radius")
        self.model_spec  # noqa: B018 - checks the selection and the way to refuse
        if any(plan.is_transfer for plan in self.attacks) and self.source is None:
            raise UserError(f"trial {self.model!r} has a transfer attack, but no source")
        if any(not plan.eps for plan in self.attacks) and self.images_from is None:
            raise UserError(f"trial {self.model!r} attacks at thresholds that no trial searches")

    @property
    def model(self) -> str:
        """Name of the variant, as in tables."""
        return self.label or self.training.name

    @property
    def model_spec(self) -> ModelSpec:
        """The evaluated model."""
        refusal = self.null_rate, self.radius, self.verifier, self.detector
        return ModelSpec(self.training, self.selection, *refusal)

    @property
    def seed(self) -> int:
        """Seed of the training and of the attacks."""
        return self.training.seed

    @property
    def norm(self) -> str:
        """Norm of all attacks."""
        return next((p.norm for p in (*self.attacks, *(c.plan for c in self.crafted))), "linf")

    @property
    def images_from(self) -> Trial | None:
        """The trial that searches the images to attack, if any."""
        if self.thresholds is not None:
            return self
        has_thresholds = self.source is not None and self.source.thresholds is not None
        return self.source if has_thresholds else None


Config = Training | Estimate | Craft | Trial
"""What a job does."""
