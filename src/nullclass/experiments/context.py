"""What the jobs of a run share: its folder, data and device, and the models trained so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nullclass.attacks import ATTACKS, Attack
from nullclass.attacks.base import with_reference_images
from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.core.paths import inside
from nullclass.core.provenance import provenance
from nullclass.data import Dataset, LabelledImages
from nullclass.experiments.config import AttackPlan, Config, ModelSpec, Training
from nullclass.experiments.detector_plan import CONSISTENCY, DetectorPlan
from nullclass.experiments.jobs import folder_of
from nullclass.models import Classifier
from nullclass.rejection import (
    DETECTORS,
    ConsistentNull,
    ProvableNull,
    calibrate,
    reject_by,
    with_threshold,
)
from nullclass.results.schema import LAST
from nullclass.training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class RunContext:
    """Where the jobs of a run read, and what they compute on."""

    run_folder: Path
    dataset: Dataset
    device: torch.device

    def folder_of(self, config: Config) -> Path:
        """Return the folder of a job; raises as :func:`nullclass.core.paths.inside`."""
        return inside(self.run_folder, folder_of(config, self.dataset.checksum))

    def load_trained(self, training: Training, selection: str = LAST) -> Classifier:
        """Return a checkpoint of a finished training."""
        return load_checkpoint(self.folder_of(training) / selection, device=self.device)[0]

    def load_model(self, spec: ModelSpec) -> Classifier:
        """Return a trained model with its way to refuse."""
        model = self.load_trained(spec.training, spec.selection)
        if spec.detector is not None:
            model = with_detector(model, spec.detector, self.dataset, spec.training.seed)
        if spec.radius is not None:
            return ProvableNull(model, spec.radius, verifier=spec.verifier)
        if spec.null_rate is None:
            return model
        if self.dataset.validation is None:
            raise UserError("a threshold needs held-out images, but the dataset has none")
        return with_threshold(model, calibrate(model, self.dataset.validation, spec.null_rate))

    def describe(self, config: Config) -> dict[str, Any]:
        """Return the fields that every result has (:class:`nullclass.results.info.Result`)."""
        return {
            "seed": config.seed,
            "config": json_values(config),
            "data_checksum": self.dataset.checksum,
            "device": str(self.device),
            "provenance": provenance(),
        }


def with_detector(model: Classifier, plan: DetectorPlan, dataset: Dataset, seed: int) -> Classifier:
    """Return a model with a detector, fitted to training images; null where its score is above 0.

    Raises:
        UserError: If the model has null already, the dataset has no training images, or too few.
    """
    if plan.name == CONSISTENCY:
        return ConsistentNull(model, **plan.settings)
    clean = dataset.training_images().up_to(plan.num_images)
    return reject_by(model, DETECTORS[plan.name](model, clean, seed))


def make_attack(plan: AttackPlan, candidates: LabelledImages) -> Attack:
    """Return the attack of a plan; ``candidates`` are its reference images if it takes any."""
    return with_reference_images(ATTACKS[plan.attack](**plan.settings), candidates)
