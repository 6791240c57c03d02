"""The JSON files of a run folder, as types: ``run.json``, and ``result.json`` of each job.

``result.json`` holds the SHA-256 of the files beside it, ``run.json`` those of its trials'
``result.json``, and each holds its own.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nullclass.core.documents import Document, Int64, Schema
from nullclass.core.origin import Provenance
from nullclass.results.schema import LAST, Flag


class DataInfo(Schema, frozen=True):
    """A dataset."""

    name: str
    checksum: str
    """SHA-256 of its files."""
    source: str
    """Where the files came from, in a sentence."""
    num_test_images: Int64
    num_training_images: Int64 | None = None


class Settings(Schema, frozen=True):
    """What determines the numbers of a run, apart from seeds and data; JSON values."""

    num_held_out: Int64 = 0
    """Training images held out."""
    attacks: list[dict[str, Any]] = msgspec.field(default_factory=list)
    crafted: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """Attacks on other models of the run."""
    sizes: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """Perturbations of given sizes."""
    trainings: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """By model."""
    trials: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """By model and selection, all that its seeds share, without fields at their default."""
    evaluation: dict[str, Any] = msgspec.field(default_factory=dict)
    """Other settings of an evaluation."""
    card: dict[str, Any] = msgspec.field(default_factory=dict)
    """Card of an evaluated checkpoint."""


class RunInfo(Document, frozen=True):
    """``run.json``."""

    format: Int64
    study: str
    """Name of the study, or ``evaluate``."""
    models: list[str]
    """In the order of the report."""
    seeds: list[Int64]
    trials: dict[str, str]
    """Title to folder, relative to the run folder, of each planned trial."""
    data: DataInfo
    device: str
    provenance: Provenance
    started: str
    """Time in ISO 8601."""
    settings: Settings
    claim: str = ""
    preset: str = ""
    selections: list[str] = msgspec.field(default_factory=lambda: [LAST])
    results: dict[str, str] = msgspec.field(default_factory=dict)
    """Folder of each finished trial to the SHA-256 of its ``result.json``."""
    seconds: float = 0.0
    peak_mb: float = 0.0
    """Peak memory of a worker, in MB."""
    notes: list[str] = msgspec.field(default_factory=list)
    """Sentences for the report."""


class Result(Document, frozen=True, kw_only=True, tag_field="kind"):
    """``result.json`` of a training, estimate, crafted set or trial."""

    seed: Int64
    provenance: Provenance
    files: dict[str, str] = msgspec.field(default_factory=dict)
    """SHA-256 of every file in the folder, by its path in it."""
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    """The job's config of a study (:mod:`nullclass.experiments.config`), as JSON values."""
    data_checksum: str = ""
    device: str = ""


class TrainingResult(Result, frozen=True, kw_only=True, tag="training"):
    """A training."""

    name: str
    """The model's."""
    epochs: dict[str, Int64]
    """By selection, the epoch it kept."""


class EstimateResult(Result, frozen=True, kw_only=True, tag="estimate"):
    """A null curve."""

    model: str
    curve: dict[str, Any]
    """:meth:`nullclass.results.null_curve.NullCurve.to_dict`."""


class CraftResult(Result, frozen=True, kw_only=True, tag="craft"):
    """Adversarial images of one model."""

    model: str
    attack: str


class ThresholdInfo(Schema, frozen=True):
    """A threshold of the null score, and where it comes from."""

    value: float
    num_images: Int64
    """Held-out images it was calibrated on."""
    clean_null_rate: float | None
    """Requested share of clean images to refuse."""
    held_out_null_rate: float | None
    """Share refused on the held-out images."""
    images_sha256: str | None
    origin: str
    """``held-out`` or ``unknown``."""
    num_overlapping: Int64
    """Held-out images that are also test images."""


class ProofInfo(Schema, frozen=True):
    """What a model proves before it answers (:class:`nullclass.rejection.ProvableNull`)."""

    radius: float
    norm: str
    verifier: str
    budget: Int64 | None = None


class AttackInfo(Schema, frozen=True):
    """An attack of a threat model."""

    objective: str
    access: str
    source: str
    """The model that it was made on: ``self``, or a name."""
    eps: list[float] | None
    """None where each image has a budget of its own."""
    num_images: Int64
    settings: dict[str, Any] | None
    """:func:`nullclass.attacks.describe`; None for images made before."""


class ThreatModel(Schema, frozen=True):
    """What the attacker wants, may change and knows."""

    norm: str
    num_classes: Int64
    data: str | None = None
    threshold: ThresholdInfo | None = None
    proof: ProofInfo | None = None
    """None if answers are not proved."""
    selected_on: str | None = None
    """``test`` or ``held-out``: the images by which the weights were selected; ``nothing`` for
    the last epoch; None if it is unknown."""
    batch_size: Int64 | None = None
    chosen_targets: list[str] = msgspec.field(default_factory=list)
    """Attacks that aim at one chosen class."""
    units: str = "pixels in [0,1]"
    attacks: dict[str, AttackInfo] = msgspec.field(default_factory=dict)


class CostInfo(Schema, frozen=True):
    """What one prediction costs, per image (:mod:`nullclass.scoring.prediction_cost`)."""

    num_forwards: float
    """Forward passes of the network inside the model; 0 where it is only read, as by bounds."""
    num_backwards: float
    cpu_ms: float
    """Processor time in milliseconds."""


class TrialResult(Result, frozen=True, kw_only=True, tag="trial"):
    """An evaluated model."""

    model: str
    threat: ThreatModel
    num_rows: Int64 = 0
    selection: str = LAST
    """Which of the training's weights."""
    trained_in: str | None = None
    """The training's folder, relative to the run folder."""
    probes: dict[str, Any] = msgspec.field(default_factory=dict)
    """Measurements for the red flags; empty if none were looked for."""
    flags: list[Flag] = msgspec.field(default_factory=list)
    evaluation_seconds: float = 0.0
    prediction: CostInfo | None = None
    """Cost of a prediction; None if it was not measured."""


AnyResult = TrainingResult | EstimateResult | CraftResult | TrialResult
