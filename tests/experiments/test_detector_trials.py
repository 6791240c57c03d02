"""Trials of one network with several ways to refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nullclass.core.errors import UserError
from nullclass.data import Dataset
from nullclass.experiments.config import AttackPlan, ModelSpec, Training, Trial
from nullclass.experiments.context import RunContext, with_detector
from nullclass.experiments.detector_plan import CONSISTENCY, DetectorPlan
from nullclass.experiments.tasks import run_task
from nullclass.models import build_model
from nullclass.rejection import (
    ConsistentNull,
    ThresholdedClassifier,
    calibrate,
    fit_mahalanobis,
    reject_by,
)
from nullclass.results.run import read_trial
from nullclass.training.recipes import Recipe

CPU = torch.device("cpu")
TRAINING = Training(
    name="clean",
    architecture="small",
    dataset="letters",
    validation=16,
    seed=0,
    weight_decay=0.0,
    nulls=None,
    recipe=Recipe(batch_size=16, epochs=2, learning_rate=3e-3),
    has_null=False,
)
MAHALANOBIS = DetectorPlan("mahalanobis", 40)
CONSISTENT = DetectorPlan(CONSISTENCY, settings={"radius": 0.05, "num_steps": 2})


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """A run folder with the trained network."""
    folder = tmp_path_factory.mktemp("detectors")
    run_task(TRAINING, folder, dataset, device=CPU)
    return RunContext(folder, dataset, CPU)


def test_a_detector_is_fitted_to_training_images_and_calibrated_on_held_out_ones(
    run: RunContext,
) -> None:
    network, dataset = run.load_trained(TRAINING), run.dataset
    assert dataset.validation is not None
    fitted = reject_by(network, fit_mahalanobis(network, dataset.training_images().first(40)))
    threshold = calibrate(fitted, dataset.validation, 0.2)
    expected = reject_by(network, fitted.detector, threshold)  # type: ignore[arg-type]
    model = run.load_model(ModelSpec(TRAINING, null_rate=0.2, detector=MAHALANOBIS))
    images = dataset.test.batch(slice(0, 20))[0]
    assert torch.equal(model(images), expected(images))
    assert isinstance(model, ThresholdedClassifier)
    assert model.threshold.num_images == len(dataset.validation)
    without = run.load_model(ModelSpec(TRAINING, detector=MAHALANOBIS))
    assert torch.equal(without(images), fitted(images)), "without a rate the threshold is 0"


def test_consistency(run: RunContext) -> None:
    images = run.dataset.test.batch(slice(0, 20))[0]
    expected = ConsistentNull(run.load_trained(TRAINING), 0.05, num_steps=2)
    model = run.load_model(ModelSpec(TRAINING, detector=CONSISTENT))
    assert torch.equal(model(images), expected(images))


def test_trials_of_one_network(run: RunContext) -> None:
    attack = AttackPlan("pgd", (0.2,), 6, settings={"num_steps": 3})
    network = Trial(TRAINING, (attack,), 20)
    trials = [
        network,
        replace(network, label="mahalanobis", detector=MAHALANOBIS, null_rate=0.2),
        replace(network, label="consistent", detector=CONSISTENT, null_rate=0.2),
    ]
    assert [trial.model for trial in trials] == ["clean", "mahalanobis", "consistent"]
    passes = []
    for trial in trials:
        run_task(trial, run.run_folder, run.dataset, device=CPU)
        found = read_trial(run.folder_of(trial))
        assert found.model == trial.model
        assert found.history is not None
        assert len(found.history) == 2, "of the shared training"
        cost = found.result.prediction
        assert cost is not None
        passes.append((cost.num_forwards, cost.num_backwards))
        null = (found.rows["outcome"] == "null").any()
        assert null == (trial.detector is not None)
    assert passes == [(1, 0), (2, 0), (5, 2)]


def test_a_detector_and_another_null_are_refused() -> None:
    with pytest.raises(UserError, match="'clean' has a detector, so it has no other null"):
        ModelSpec(replace(TRAINING, has_null=True), detector=MAHALANOBIS)


def test_nothing_is_fitted_to_a_model_with_null(run: RunContext) -> None:
    model = build_model("small", image_shape=run.dataset.image_shape, num_classes=3)
    with pytest.raises(UserError, match="has null already"):
        with_detector(model, DetectorPlan("magnet-divergence", 100), run.dataset, 0)
