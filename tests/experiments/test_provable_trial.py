"""A trial of a model deployed with a radius: trained, wrapped, attacked, proved, recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import learnable_dataset

from nullclass import load_dataset
from nullclass.experiments.config import AttackPlan, ProofPlan, Training, Trial
from nullclass.experiments.context import RunContext
from nullclass.experiments.jobs import folder_of, jobs_of
from nullclass.experiments.tasks import run_task
from nullclass.rejection import ProvableNull
from nullclass.results.store import read_trial
from nullclass.training.recipes import Recipe

TRAINING = Training(
    name="provable",
    architecture="certifiable-small",
    dataset="idx",
    validation=20,
    seed=0,
    weight_decay=0.0,
    nulls=None,
    recipe=Recipe(batch_size=20, epochs=6, learning_rate=1e-2),
    has_null=False,
)
EPS = (0.0002, 0.1)
TRIAL = Trial(
    TRAINING,
    (AttackPlan("pgd", EPS, 20, {"num_steps": 5}),),
    num_clean=30,
    is_checked=True,
    radius=0.0001,
    proofs=(ProofPlan(EPS, 40), ProofPlan((0.05,), 10)),
)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_deployed_with_a_radius(tmp_path: Path) -> None:
    dataset = load_dataset("idx", data_dir=learnable_dataset(tmp_path / "data"), validation=20)
    cpu, run = torch.device("cpu"), tmp_path / "run"
    shares: list[float] = []
    for job in jobs_of([TRIAL], dataset.checksum):
        shares.clear()
        run_task(job.config, run, dataset, device=cpu, advance=shares.append)
    assert sum(shares) == pytest.approx(1)
    model = RunContext(run, dataset, cpu).load_model(TRIAL.model_spec)
    assert isinstance(model, ProvableNull)
    assert model.radius == 0.0001
    plain = RunContext(run, dataset, cpu).load_trained(TRAINING)
    trial = read_trial(run / folder_of(TRIAL, dataset.checksum))
    images, labels = dataset.test.batch(slice(None))
    clean = trial.rows[trial.rows["attack"] == "clean"]
    answers = model.predict(images)
    assert clean["prediction"].tolist() == answers[:30].tolist()
    answered = answers >= 0
    assert torch.equal(answers[answered], plain.predict(images)[answered])
    counts = trial.certified.groupby("eps_pixels").size()
    assert counts.to_dict() == {0.0002: 40, 0.05: 10, 0.1: 40}
    proved = trial.certified[trial.certified["eps_pixels"] == 0.0002]
    assert proved["is_rar_proved"].sum() > 10
    assert not (proved["is_rar_proved"].to_numpy() & (answers != labels).numpy()).any()
    proofs = trial.summary[trial.summary["attack"] == "proof"]
    assert set(proofs["metric"]) == {"rar_proved", "strict_proved", "aer_bound"}
    assert "proof-broken" not in {flag.name for flag in trial.flags}
