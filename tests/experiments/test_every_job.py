"""A run with every kind of job: curves, substitutes, crafted images, thresholds, sizes, proofs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from few_resamples import few_resamples
from pandas_defaults import check_tables
from safetensors.numpy import load_file

from nullclass import load_checkpoint
from nullclass.core.errors import UserError
from nullclass.data import Dataset, load_dataset
from nullclass.experiments.config import (
    AttackPlan,
    Craft,
    Estimate,
    ModelSpec,
    NullPlan,
    ProofPlan,
    Queries,
    SizePlan,
    Training,
    Trial,
)
from nullclass.experiments.context import RunContext
from nullclass.experiments.engines.serial import SerialEngine
from nullclass.experiments.jobs import folder_of, jobs_of
from nullclass.experiments.runner import RunResult, run_study
from nullclass.experiments.study import Study
from nullclass.experiments.tasks import run_task
from nullclass.experiments.trainings import Trainer
from nullclass.nulls import NullProbabilities
from nullclass.nulls.perturb import FGSMPerturbation
from nullclass.rejection import ProvableNull, calibrate, with_threshold
from nullclass.results.null_curve import NullCurve
from nullclass.results.run import Run, read_run, read_trial
from nullclass.results.schema import CURVE, IMAGES, QUERIES, RESULT, ROWS, SIZE_COLUMNS, SIZES
from nullclass.training.queries import QueryPlan
from nullclass.training.recipes import Recipe

CPU = torch.device("cpu")
VALIDATION = 60
EPS = (0.1, 0.3)
EPS_SIZES = (0.0, 0.2, 0.8)

CLEAN = Training(
    name="clean",
    architecture="small",
    dataset="letters",
    validation=VALIDATION,
    seed=0,
    weight_decay=0.0,
    nulls=None,
    recipe=Recipe(batch_size=16, epochs=12, learning_rate=5e-3),
    has_null=False,
)
ESTIMATE = Estimate(ModelSpec(CLEAN), "fgsm", "linf", VALIDATION, num_sizes=6)
SOFT = replace(
    CLEAN,
    name="soft",
    nulls=NullPlan("null-probabilities", {"perturbation": "fgsm"}, 1.0, estimate=ESTIMATE),
    has_null=True,
)
PER_CLASS = replace(
    CLEAN,
    name="per-class",
    nulls=NullPlan("adversarial", {"eps": 0.4}, 1.0),
    has_null=True,
    per_class_null=True,
)
UNIFORM = replace(CLEAN, name="uniform", nulls=NullPlan("uniform", {}, 1.0), uniform_targets=True)
NULL_RATE = 0.1
SUBSTITUTE = replace(
    CLEAN, name="substitute", queries=Queries(ModelSpec(SOFT), QueryPlan(20, 40, step=0.1))
)
PLAN = AttackPlan("mi-fgsm", EPS, 12, {"num_steps": 3})
CRAFTS = (
    Craft(ModelSpec(CLEAN), PLAN),
    Craft(ModelSpec(SOFT), PLAN),
    Craft(ModelSpec(SUBSTITUTE), PLAN),
    Craft(ModelSpec(UNIFORM, null_rate=NULL_RATE), PLAN),
)
SIZE_PLANS = (SizePlan("fgsm", "linf", EPS_SIZES, 10), SizePlan("noise", "l0", (0.5,), 5))
VARIANTS = {"soft": SOFT, "per-class": PER_CLASS, "uniform": UNIFORM}


def trials(preset: object, seeds: object, variants: object) -> list[Trial]:
    return [
        Trial(
            VARIANTS[name],
            (AttackPlan("fgsm", EPS, 12),),
            num_clean=40,
            null_rate=NULL_RATE if name == "uniform" else None,
            crafted=CRAFTS,
            sizes=SIZE_PLANS,
        )
        for name in variants  # type: ignore[attr-defined]
    ]


STUDY = Study(
    name="black-box",
    claim="It runs.",
    dataset="letters",
    validation=VALIDATION,
    variants=tuple(VARIANTS),
    num_seeds={"quick": 1},
    trials=trials,
)


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    return load_dataset(data, validation=VALIDATION, progress=lambda _: None)


def run(dataset: Dataset, folder: Path) -> RunResult:
    return run_study(STUDY, dataset, folder, engine=SerialEngine(dataset, CPU), device=CPU)


@pytest.fixture(scope="module")
def folder(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("black-box") / "run"
    with few_resamples():
        outcome = run(dataset, folder)
    assert not outcome.failed, outcome
    assert outcome.num_done == 5 + 1 + 4 + 3
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Run:
    return read_run(folder)


def test_nothing_is_done_twice_and_what_is_lost_is_done_again(
    dataset: Dataset, folder: Path
) -> None:
    assert check_tables(folder) >= {CURVE, QUERIES, SIZES, ROWS}
    assert run(dataset, folder).num_done == 0
    craft = folder / folder_of(CRAFTS[0], dataset.checksum)
    before = {name: (craft / name).read_bytes() for name in (IMAGES, ROWS)}
    (craft / IMAGES).write_bytes(b"cut short")
    estimate = folder / folder_of(ESTIMATE, dataset.checksum)
    result = (estimate / RESULT).read_bytes()
    (estimate / RESULT).unlink()
    outcome = run(dataset, folder)
    assert (outcome.num_done, outcome.failed) == (2, {})
    assert {name: (craft / name).read_bytes() for name in before} == before, "to the byte"
    again = json.loads((estimate / RESULT).read_bytes())
    assert again["curve"] == json.loads(result)["curve"]


def test_the_training_uses_the_estimated_curve(dataset: Dataset, folder: Path, found: Run) -> None:
    (curve,) = found.curves
    assert (curve.model, curve.seed) == ("clean", 0)
    assert curve.curve.num_images >= 50
    assert curve.curve.perturbation == "fgsm"
    _, card = load_checkpoint(folder / folder_of(SOFT, dataset.checksum) / "last")
    assert NullCurve.from_dict(card.origin.nulls["curve"]) == curve.curve
    source = NullProbabilities(None, card.origin.nulls["curve"])  # type: ignore[arg-type]
    assert source.settings() == card.origin.nulls, "the card has all settings of the null images"


def test_crafted_images_and_their_rows(dataset: Dataset, folder: Path, found: Run) -> None:
    clean = dataset.test.first(12).batch(slice(None))[0].numpy()
    for craft in CRAFTS:
        crafted = folder / folder_of(craft, dataset.checksum)
        images = load_file(crafted / IMAGES)
        assert sorted(map(float, images)) == list(EPS)
        for eps, adv_images in images.items():
            assert adv_images.min() >= 0
            assert adv_images.max() <= 1
            assert np.abs(adv_images - clean).max() <= float(eps) + 1e-6
        assert (crafted / ROWS).exists()
    assert {source.model for source in found.sources} == {"clean", "soft", "substitute", "uniform"}
    by_model = {trial.model: trial for trial in found.trials}
    for trial in found.trials:
        rows = trial.rows
        for craft in CRAFTS:
            of = rows[rows["attack"] == f"mi-fgsm on {craft.source_name}"]
            is_own = craft.source_name == trial.model
            assert set(of["source"]) == {"self" if is_own else craft.source_name}
            assert len(of) == 12 * len(EPS)
    # A model's own images have the same outcomes in the rows of the source and of the target.
    for name in ("soft", "uniform"):
        (source,) = (source for source in found.sources if source.model == name)
        rows = by_model[name].rows
        target = rows[rows["attack"] == f"mi-fgsm on {name}"]
        assert list(target["prediction"]) == list(source.rows["prediction"])


def test_transferred_images_are_scored_on_the_target(
    dataset: Dataset, folder: Path, found: Run
) -> None:
    model, _ = load_checkpoint(folder / folder_of(PER_CLASS, dataset.checksum) / "last")
    (trial,) = (trial for trial in found.trials if trial.model == "per-class")
    images = load_file(folder / folder_of(CRAFTS[2], dataset.checksum) / IMAGES)
    for eps, adv_images in images.items():
        rows = trial.rows.query("attack == 'mi-fgsm on substitute'")
        rows = rows[rows["eps_pixels"] == float(eps)]
        assert rows["prediction"].tolist() == model.predict(torch.from_numpy(adv_images)).tolist()


def test_a_threshold_is_calibrated_on_the_held_out_images(
    dataset: Dataset, folder: Path, found: Run
) -> None:
    network, _ = load_checkpoint(folder / folder_of(UNIFORM, dataset.checksum) / "last")
    assert not network.has_null
    assert dataset.validation is not None
    threshold = calibrate(network, dataset.validation, NULL_RATE)
    (trial,) = (trial for trial in found.trials if trial.model == "uniform")
    clean = trial.rows[trial.rows["attack"] == "clean"]
    images = dataset.test.batch(slice(None))[0]
    predicted = with_threshold(network, threshold).predict(images)
    assert clean["prediction"].tolist() == predicted.tolist()
    info = trial.result.threat.threshold
    assert info is not None
    assert (info.value, info.origin) == (threshold.value, "held-out")
    # The probabilities are the network's own.
    clean_sizes = trial.sizes.query("norm == 'linf' and size == 0")
    own = network(images[:10]).softmax(dim=1)
    labels = dataset.test.labels[:10]
    np.testing.assert_allclose(clean_sizes["p_label"], own[range(10), labels].detach(), rtol=1e-5)
    assert (clean_sizes["p_null"] == 0).all()
    assert clean_sizes["prediction"].tolist() == predicted[:10].tolist()


def test_sizes(dataset: Dataset, folder: Path, found: Run) -> None:
    images, labels = dataset.test.first(10).batch(slice(None))
    for name, training in (("soft", SOFT), ("per-class", PER_CLASS)):
        (trial,) = (trial for trial in found.trials if trial.model == name)
        assert list(trial.sizes) == list(SIZE_COLUMNS)
        assert len(trial.sizes) == 10 * len(EPS_SIZES) + 5
        model, _ = load_checkpoint(folder / folder_of(training, dataset.checksum) / "last")
        for size in EPS_SIZES:
            adv_images = FGSMPerturbation()(model, images, labels, torch.full((10,), size), "linf")
            shares = model.all_logits(adv_images).softmax(dim=1).detach()
            rows = trial.sizes.query("perturbation == 'fgsm' and size == @size")
            assert rows["image"].tolist() == list(range(10))
            np.testing.assert_allclose(rows["p_label"], shares[range(10), labels], atol=1e-6)
            np.testing.assert_allclose(rows["p_null"], shares[:, 3:].sum(dim=1), atol=1e-6)
            assert rows["prediction"].tolist() == model.predict(adv_images).tolist()
            np.testing.assert_allclose(
                rows["actual_size"], (adv_images - images).flatten(1).abs().amax(dim=1), atol=1e-6
            )
        noisy = trial.sizes.query("perturbation == 'noise'")
        assert (noisy["actual_size"] <= 0.5).all()


def test_a_substitute_keeps_its_query_budget(found: Run) -> None:
    (rounds,) = found.queried.values()
    assert isinstance(rounds, pd.DataFrame)
    assert rounds["num_queries"].sum() <= 40
    assert rounds["num_queries"].iloc[0] == 20
    assert rounds["agreement_after"].between(0, 1).all()


def test_background_images_of_the_same_dataset_are_refused(
    dataset: Dataset, tmp_path: Path
) -> None:
    mnist = replace(dataset, name="fashion-mnist")
    nulls = NullPlan("background", {}, 1.0)
    training = replace(SOFT, nulls=nulls, dataset="fashion-mnist")
    for plan in (nulls, NullPlan("any-of", {"sources": {"background": {}, "uniform": {}}}, 1.0)):
        with pytest.raises(UserError, match="the data that the model learns"):
            Trainer(replace(training, nulls=plan), mnist, device=CPU)


def test_settings_of_the_run(found: Run) -> None:
    settings = found.info.settings
    assert [plan["source"] for plan in settings.crafted] == [
        "clean", "soft", "substitute", "uniform"
    ]  # fmt: skip
    assert [plan["norm"] for plan in settings.sizes] == ["linf", "l0"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_with_a_radius(dataset: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(batch_size=20, epochs=9, learning_rate=1e-2)
    training = replace(CLEAN, name="provable", architecture="certifiable-small", recipe=recipe)
    eps = (0.0002, 0.1)
    trial = Trial(
        training,
        (AttackPlan("pgd", eps, 20, {"num_steps": 5}),),
        num_clean=30,
        is_checked=True,
        radius=0.0001,
        proofs=(ProofPlan(eps, 40), ProofPlan((0.05,), 10)),
    )
    shares: list[float] = []
    for job in jobs_of([trial], dataset.checksum):
        shares.clear()
        run_task(job.config, tmp_path, dataset, device=CPU, advance=shares.append)
    assert sum(shares) == pytest.approx(1)
    context = RunContext(tmp_path, dataset, CPU)
    model, network = context.load_model(trial.model_spec), context.load_trained(training)
    assert isinstance(model, ProvableNull)
    assert model.radius == 0.0001
    found = read_trial(context.folder_of(trial))
    images, labels = dataset.test.batch(slice(None))
    clean = found.rows[found.rows["attack"] == "clean"]
    predicted = model.predict(images)
    assert clean["prediction"].tolist() == predicted[:30].tolist()
    assert torch.equal(predicted[predicted >= 0], network.predict(images)[predicted >= 0])
    counts = found.certified.groupby("eps_pixels").size()
    assert counts.to_dict() == {0.0002: 40, 0.05: 10, 0.1: 40}
    proved = found.certified[found.certified["eps_pixels"] == 0.0002]
    assert proved["is_rar_proved"].sum() > 10
    assert not (proved["is_rar_proved"].to_numpy() & (predicted != labels).numpy()).any()
    proofs = found.summary[found.summary["attack"] == "proof"]
    assert set(proofs["metric"]) == {"rar_proved", "strict_proved", "aer_bound"}
    assert "proof-broken" not in {flag.name for flag in found.flags}
