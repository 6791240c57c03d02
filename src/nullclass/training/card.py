"""The model card, ``card.json``: what rebuilds a model and where it is from. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec.structs import replace

from nullclass.core.documents import Document, Schema, Sha256, read_document
from nullclass.core.errors import UserError
from nullclass.core.origin import Provenance

CARD = "card.json"

Count = Annotated[int, Meta(ge=0, le=2**53)]
Side = Annotated[int, Meta(ge=1, le=2**15)]
"""Channels, height or width of an image."""

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Radius = Annotated[float, Meta(ge=0)]
PerChannel = Annotated[tuple[float, ...], Meta(min_length=1, max_length=2**15)]

MAX_CLASSES = 2**17
"""Most classes, and most null logits."""


class ThresholdRefusal(Schema, frozen=True, tag_field="kind", tag="threshold"):
    """A :class:`nullclass.rejection.Threshold`; its images are a tensor beside the weights."""

    value: float
    clean_null_rate: Share | None
    held_out_null_rate: Share | None
    num_images: Count
    images_sha256: Sha256 | None
    guarantee: str | None = None
    """What the calibration promises (:attr:`nullclass.rejection.Threshold.guarantee`)."""


class ProvableRefusal(Schema, frozen=True, tag_field="kind", tag="provable"):
    """Settings of a :class:`nullclass.rejection.ProvableNull`."""

    radius: Radius
    norm: str
    verifier: str
    budget: Count | None = None
    """Of the cascade; None for the other verifiers."""


class SmoothedRefusal(Schema, frozen=True, tag_field="kind", tag="smoothed"):
    """Settings of a :class:`nullclass.rejection.SmoothedNull`."""

    radius: Radius
    sigma: Positive
    num_samples: Annotated[int, Meta(ge=1, le=10**8)]
    num_selection: Annotated[int, Meta(ge=1, le=10**8)]
    confidence: Share
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class DetectorRefusal(Schema, frozen=True, tag_field="kind", tag="detector"):
    """A detector of :mod:`nullclass.rejection.saved`; its tensors are beside the weights."""

    detector: str
    """Key of :data:`nullclass.rejection.saved.KINDS`."""
    settings: dict[str, Any]
    shapes: dict[str, tuple[Count, ...]]
    """Shapes of its tensors by name."""
    threshold: ThresholdRefusal | None
    """The threshold on its score; None: 0."""


Refusal = ThresholdRefusal | ProvableRefusal | SmoothedRefusal | DetectorRefusal


class OwnNetwork(Schema, frozen=True, kw_only=True):
    """A network that is not one of :data:`nullclass.models.ARCHITECTURES`."""

    function: str | None
    """What builds it, ``PACKAGE.MODULE:FUNCTION``; None if that is not recorded."""
    arguments: dict[str, Any]
    """Keyword arguments of the function."""
    outputs: Literal["logits", "probabilities"]
    """What it returns (:class:`nullclass.models.Classifier`)."""
    has_score: bool
    """Whether it also returns a score, which decides on null."""


class Origin(Schema, frozen=True, kw_only=True):
    """Where weights are from; None where it is unknown or does not apply."""

    data: str | None = None
    """Name of the dataset."""
    data_checksum: Sha256 | None = None
    """Of the dataset's files."""
    num_held_out: Count = 0
    """Training images held out, from the last."""
    selected_on: Literal["test", "held-out"] | None = None
    """The images on which the epoch was selected; None for the last one."""
    epoch: Count | None = None
    """From 1."""
    training: dict[str, Any] | None = None
    """The config of the training, a record for readers."""
    nulls: dict[str, Any] | None = None
    """All settings of the null images, likewise."""
    training_seconds: Annotated[float, Meta(ge=0)] | None = None
    device: str | None = None
    queried: Sha256 | None = None
    """Weights of the model that a substitute learned from."""
    num_queries: Count | None = None
    """Images that it labelled."""
    trained_on: Provenance | None = None
    """What computed the weights, if the checkpoint was written later."""
    rounding: str | None = None
    """How the weights were rounded after training."""

    @property
    def weights_selected_on(self) -> str | None:
        """``test``, ``held-out``, ``nothing`` for the last epoch, None if that is unknown."""
        return self.selected_on or ("nothing" if self.training else None)


class Description(Schema, frozen=True, kw_only=True):
    """The description of a member of a zoo.

    Raises:
        UserError: If a text is empty, or a number is not positive.
    """

    order: Annotated[int, Meta(ge=0, le=10**6)]
    """Position in tables."""
    title: str
    recipe: str
    """How the model was trained."""
    claims: str
    """What the model claims, with the threat model."""
    limits: str
    """What it does not claim."""
    source: str
    """The paper."""
    eps: tuple[float, ...]
    """Budgets of the leaderboard, increasing, in pixel units (L∞)."""
    licence: str = "MIT, as nullclass"

    def __post_init__(self) -> None:
        """Check every value."""
        texts = (self.title, self.recipe, self.claims, self.limits, self.source, self.licence)
        if not all(texts):
            raise UserError("the texts of a description must not be empty")
        if not self.eps or not all(0 < eps <= 1 for eps in self.eps):
            raise UserError(f"the eps of a description must be in (0, 1], not {self.eps!r}")
        if list(self.eps) != sorted(set(self.eps)):
            raise UserError(f"the eps of a description must increase, not {self.eps!r}")


class Card(Document, frozen=True, kw_only=True):
    """All that is known about a checkpoint."""

    architecture: str | OwnNetwork
    """Key of :data:`nullclass.models.ARCHITECTURES`, or a network of your own."""
    image_shape: tuple[Side, Side, Side] | None
    """``(C, H, W)``."""
    num_classes: Annotated[int, Meta(ge=2, le=MAX_CLASSES)]
    """K, the number of real classes."""
    num_nulls: Annotated[int, Meta(ge=0, le=MAX_CLASSES)]
    """Number of null logits, after those of the classes; 0 without null."""
    mean: PerChannel
    std: PerChannel
    num_parameters: Count
    refusal: Refusal | None
    """How the model refuses, besides by a null logit."""
    stored: Literal["exact", "float16", "int8"]
    """How the weights are stored (:data:`nullclass.models.quantize.Stored`)."""
    weights_sha256: Sha256
    """SHA-256 of the weights' file."""
    origin: Origin
    metadata: dict[str, Any]
    """The caller's own values."""
    zoo: Description | None
    """For members of a zoo."""
    provenance: Provenance
    """What wrote the checkpoint."""


def origin_of(card: Card) -> Origin:
    """Return where the weights of a checkpoint are from, for another checkpoint of them."""
    return replace(card.origin, trained_on=card.origin.trained_on or card.provenance)


def read_card(folder: Path) -> Card:
    """Return the card of a checkpoint's folder.

    Raises:
        UserError: If it is missing, damaged or changed.
    """
    return read_document(folder / CARD, Card, "model card")
