"""A trial that is interrupted goes on where it was."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from interruptions import Calls, keep_everything, until_done
from tiny import NUM_CLASSES
from tiny_study import CPU

from nullclass.attacks import PGD
from nullclass.data import Dataset
from nullclass.diagnostics import attack_probes
from nullclass.experiments.config import (
    AttackPlan,
    Craft,
    ModelSpec,
    ProofPlan,
    SizePlan,
    Training,
    Trial,
)
from nullclass.experiments.context import RunContext
from nullclass.experiments.trials import evaluate_trial
from nullclass.models import Classifier, build_model
from nullclass.results import schema, store
from nullclass.results.run import read_trial
from nullclass.scoring.crafted import craft
from nullclass.scoring.parts import Parts
from nullclass.training.recipes import Recipe

TRAINING = Training(
    name="model",
    architecture="small",
    dataset="letters",
    validation=16,
    seed=1,
    weight_decay=0.0,
    nulls=None,
    recipe=Recipe(batch_size=16, epochs=1, learning_rate=1e-3),
)
PLANS = (
    AttackPlan("pgd", (0.05, 0.1), 8, settings={"num_steps": 2, "num_restarts": 2}, num_examples=2),
    AttackPlan("noise", (0.05, 0.1), 8, settings={"num_draws": 2}),
)
CRAFT = Craft(ModelSpec(TRAINING), AttackPlan("mi-fgsm", (0.1,), 8, settings={"num_steps": 2}))
TRIAL = Trial(
    TRAINING,
    PLANS,
    num_clean=8,
    is_checked=True,
    crafted=(CRAFT,),
    sizes=(SizePlan("fgsm", "linf", (0.0, 0.1), 8),),
    proofs=(ProofPlan((0.01, 0.02), 8),),
)


class Untrained(RunContext):
    """Its models are never trained."""

    def load_trained(self, training: Training, selection: str = "last") -> Classifier:
        torch.manual_seed(training.seed)
        shape = self.dataset.image_shape
        return build_model("small", image_shape=shape, num_classes=NUM_CLASSES)


@pytest.fixture
def run(dataset: Dataset, tmp_path: Path) -> Untrained:
    run = Untrained(tmp_path, dataset, CPU)
    crafted = craft(
        run.load_model(CRAFT.source), dataset.test, PGD(num_steps=1), [0.1], num_images=8
    )
    crafted.save(run.folder_of(CRAFT))
    return run


def test_a_trial_goes_on_where_it_was(
    run: Untrained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep_everything(monkeypatch)
    monkeypatch.setattr(attack_probes, "REFERENCE", PGD(num_steps=2))
    calls = Calls(monkeypatch)
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    for folder in (whole, interrupted):
        folder.mkdir()
    shares: list[float] = []
    evaluate_trial(run, TRIAL, whole, shares.append)
    assert sum(shares) == pytest.approx(1)
    uninterrupted = calls.take()
    until_done(lambda advance: evaluate_trial(run, TRIAL, interrupted, advance), every=8)
    assert calls.take() == uninterrupted, "no attack is made twice"
    assert not (interrupted / schema.PARTS).exists()
    assert {path.name for path in interrupted.iterdir()} == {path.name for path in whole.iterdir()}
    one, other = read_trial(interrupted), read_trial(whole)
    for name in ("rows", "certified", "sizes", "summary", "scores"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    assert one.costs.drop(columns="seconds").equals(other.costs.drop(columns="seconds"))
    assert one.flags == other.flags
    assert (interrupted / schema.EXAMPLES).read_bytes() == (whole / schema.EXAMPLES).read_bytes()


def test_progress_counts_what_is_finished_at_once(
    run: Untrained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep_everything(monkeypatch)
    trial = replace(TRIAL, is_checked=False)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("at the very end")

    folder = tmp_path / "trial"
    with monkeypatch.context() as patched:
        patched.setattr("nullclass.evaluation.result.Evaluation.write", fail)
        with pytest.raises(RuntimeError, match="at the very end"):
            evaluate_trial(run, trial, folder, lambda share: None)
    calls, shares = Calls(monkeypatch), []
    evaluate_trial(run, trial, folder, shares.append)
    assert calls.take() == []
    assert sum(shares) == pytest.approx(1)


def test_parts_of_a_finished_trial_are_removed_by_the_next_call(
    finished: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """A process may be killed between the two."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    trial, other = sorted((folder / schema.TRIALS).iterdir())[:2]
    for each in (trial, other):
        assert Parts(each / schema.PARTS).of("step").save({"a": 1}, seconds=9.0)
    (other / schema.ROWS).unlink()
    with store.writing(folder):
        assert not (trial / schema.PARTS).exists()
        assert (other / schema.PARTS).exists(), "that trial goes on"
