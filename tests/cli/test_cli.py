"""The command line on a tiny dataset: what works. What does not is in ``test_bad_input.py``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import learnable_dataset

from nullclass import UserError, load_checkpoint, load_dataset, save_checkpoint
from nullclass.cli.main import main
from nullclass.cli.study import numbers
from nullclass.core.files import LOCK, locked
from nullclass.experiments import engines, trainings
from nullclass.experiments.engines import DataSource
from nullclass.experiments.engines.serial import SerialEngine, load
from nullclass.models import build_model
from nullclass.rejection import Certificates
from nullclass.results.schema import ROW_COLUMNS, STATE, SUMMARY_COLUMNS
from nullclass.results.store import read_run
from nullclass.studies import STUDIES, Trial
from nullclass.studies.fgsm_null.config import FGSM_NULL
from nullclass.training.checkpoint import CARD, WEIGHTS
from nullclass.training.recipes import Recipe

TRAIN = ["train", "--dataset", "idx", "--validation", "20", "--epochs", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learnable_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def checkpoint(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "model"
    assert main([*TRAIN, "--data-dir", str(data_dir), "--out", str(out)]) == 0
    return out


def test_data(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "idx", "--data-dir", str(data_dir)]) == 0
    told = capsys.readouterr().out
    dataset = load_dataset("idx", data_dir=data_dir, validation=0)
    assert "160 training and 40 test images of 1 x 8 x 8, 3 classes" in told
    assert dataset.checksum in told
    assert str(data_dir) in told


def test_train_writes_a_checkpoint_that_works(
    checkpoint: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(path.name for path in checkpoint.iterdir()) == [CARD, "history.csv", WEIGHTS]
    model, card = load_checkpoint(checkpoint)
    dataset = load_dataset("idx", data_dir=data_dir, validation=20)
    assert card["data_checksum"] == dataset.checksum
    assert card["training"]["nulls"] == {
        "source": "adversarial", "settings": {"eps": 0.154, "num_steps": 1}, "weight": 1 / 11,
        "share": None, "estimate": None,
    }  # fmt: skip
    assert (card["num_classes"], card["has_null"], card["null_index"]) == (3, True, 3)
    history = pd.read_csv(checkpoint / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    images, labels = dataset.validation.batch(slice(None))
    accuracy = float((model.predict(images) == labels).double().mean())
    assert history["validation_accuracy"].iloc[-1] == pytest.approx(accuracy)


def test_the_same_command_gives_the_same_weights(
    checkpoint: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TRAIN, "--data-dir", str(data_dir), "--out", str(tmp_path / "again")]
    assert main(arguments) == 0
    assert "checkpoint:" in capsys.readouterr().out
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (checkpoint / WEIGHTS).read_bytes()
    other = [*TRAIN, "--data-dir", str(data_dir), "--out", str(tmp_path / "b"), "--seed", "1"]
    assert main(other) == 0
    assert (tmp_path / "b" / WEIGHTS).read_bytes() != (checkpoint / WEIGHTS).read_bytes()


def test_every_option_of_train(data_dir: Path, tmp_path: Path) -> None:
    arguments = [
        "train", "--out", str(tmp_path / "m"), "--dataset", "idx", "--data-dir", str(data_dir),
        "--model", "report", "--nulls", "none", "--weight-decay", "0", "--learning-rate", "0.002",
        "--epochs", "1", "--validation", "0", "--device", "cpu",
    ]  # fmt: skip
    assert main(arguments) == 0
    model, card = load_checkpoint(tmp_path / "m")
    assert (model.has_null, model.architecture) == (False, "report")
    assert card["training"]["recipe"]["learning_rate"] == 0.002
    assert card["training"]["nulls"] is None
    report = ["train", "--out", str(tmp_path / "r"), "--dataset", "idx", "--data-dir",
              str(data_dir), "--model", "report", "--validation", "0", "--epochs", "1"]  # fmt: skip
    assert main(report) == 0
    model, card = load_checkpoint(tmp_path / "r")
    assert (model.has_null, model.architecture) == (True, "report")


def test_train_with_several_kinds_of_null_images_within_the_batches(
    data_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m"
    arguments = [*TRAIN, "--data-dir", str(data_dir), "--out", str(out), "--model", "report",
                 "--nulls", "uniform", "adversarial", "mixed", "--null-share", "0.4",
                 "--null-eps", "0.2", "--epochs", "6"]  # fmt: skip
    assert main(arguments) == 0
    model, card = load_checkpoint(out)
    assert card["training"]["nulls"] == {
        "source": "any-of",
        "settings": {
            "sources": {
                "uniform": {}, "adversarial": {"eps": 0.2, "num_steps": 1}, "mixed": {}
            }
        },
        "weight": None,
        "share": 0.4,
        "estimate": None,
    }  # fmt: skip
    assert model.has_null
    history = pd.read_csv(out / "history.csv")
    assert history["null_loss"].notna().all()
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_null_probabilities_from_a_clean_model_to_a_trained_one(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, table, out = tmp_path / "clean", tmp_path / "f.csv", tmp_path / "np"
    train = ["train", "--dataset", "idx", "--data-dir", str(data_dir), "--model", "small",
             "--validation", "70", "--device", "cpu", "--learning-rate", "0.005"]  # fmt: skip
    assert main([*train, "--out", str(clean), "--nulls", "none", "--epochs", "30"]) == 0
    capsys.readouterr()
    curve = ["curve", str(clean), "--out", str(table), "--data-dir", str(data_dir),
             "--perturbation", "pgd", "--steps", "3", "--norm", "l2", "--sizes", "5",
             "--images", "65", "--always", "0.6", "--device", "cpu"]  # fmt: skip
    assert main(curve) == 0
    told = capsys.readouterr().out
    assert "held-out images, pgd: always fooled from" in told
    assert f"curve: {table}" in told
    found = pd.read_csv(table)
    about = ["norm", "perturbation", "perturbation_settings", "num_images"]
    assert list(found) == ["size", "probability", "fooled", *about]
    assert len(found) == 5
    assert found["probability"].iloc[-1] == 1
    assert found["size"].is_monotonic_increasing
    soft = [*train, "--out", str(out), "--nulls", "null-probabilities", "--curve", str(table),
            "--epochs", "2"]  # fmt: skip
    assert main(soft) == 0
    model, card = load_checkpoint(out)
    assert model.has_null
    assert card["nulls"]["curve"]["sizes"] == found["size"].tolist()
    assert card["nulls"]["perturbation"] == "pgd", "as the curve's file tells"
    assert card["nulls"]["perturbation_settings"] == {"num_steps": 3}
    assert card["nulls"]["curve"]["num_images"] == found["num_images"].iloc[0] >= 50
    assert card["training"]["nulls"]["weight"] == 2
    assert card["training"]["recipe"]["nulls_per_image"] == 1


def test_twins_and_null_spread_over_the_classes(data_dir: Path, tmp_path: Path) -> None:
    train = [*TRAIN, "--data-dir", str(data_dir), "--model", "small"]
    assert main([*train, "--out", str(tmp_path / "twins"), "--twins"]) == 0
    model, card = load_checkpoint(tmp_path / "twins")
    assert (model.num_nulls, card["num_nulls"], card["null_index"]) == (3, 3, 3)
    ccat = [*train, "--out", str(tmp_path / "ccat"), "--nulls", "ccat", "--null-steps", "2"]
    assert main([*ccat, "--spread-null"]) == 0
    model, card = load_checkpoint(tmp_path / "ccat")
    assert not model.has_null
    assert card["nulls"] == {"eps": 0.3, "num_steps": 2, "power": 10.0, "reach": 2 / 3}


def test_substitute_and_transfer(
    checkpoint: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "asked", tmp_path / "matrix.csv"
    ask = ["substitute", str(checkpoint), "--out", str(out), "--queries", "30", "--seeds", "12",
           "--data-dir", str(data_dir), "--device", "cpu"]  # fmt: skip
    assert main(ask) == 0
    told = capsys.readouterr().out
    assert "30 queries in 3 rounds; the substitute answers as the model does on" in told
    _, card = load_checkpoint(out)
    _, asked = load_checkpoint(checkpoint)
    assert (card["queried"], card["num_queries"]) == (asked["weights_sha256"], 30)
    shown = ["transfer", "--sources", str(out), str(checkpoint), "--targets", str(checkpoint),
             "--eps", "0.1", "0.3", "--images", "20", "--data-dir", str(data_dir),
             "--out", str(table), "--device", "cpu"]  # fmt: skip
    assert main(shown) == 0
    assert "who falls to whom: mi-fgsm, linf, 20 test images" in capsys.readouterr().out
    matrix = pd.read_csv(table)
    assert len(matrix) == 4
    assert set(matrix["source"]) == {str(out), str(checkpoint)}
    assert np.allclose(matrix["correct_rate"] + matrix["null_rate"] + matrix["fooled_rate"], 1)


def test_evaluate_writes_a_whole_run(
    checkpoint: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = [
        "evaluate", str(checkpoint), "--data-dir", str(data_dir), "--out", str(out),
        "--eps", "0.05", "0.3", "--attack", "fgsm", "pgd", "--images", "30", "--device", "cpu",
        "--smallest", "6",
    ]  # fmt: skip
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert str(out / "report.html") in told.replace("\n", "")
    run = read_run(out)
    (trial,) = run.trials
    assert list(trial.rows.columns) == list(ROW_COLUMNS)
    counts = trial.rows.groupby(["attack", "eps_pixels"]).size().to_dict()
    adv_images = [(attack, eps) for attack in ("fgsm", "pgd") for eps in (0.05, 0.3)]
    smallest = {place: n for place, n in counts.items() if place[0] == "smallest-eps"}
    assert sum(smallest.values()) == 6
    assert counts == dict.fromkeys([("clean", 0.0), *adv_images], 30) | smallest
    assert set(trial.ood["source"]) == {"noise", "blank", "tiles"}
    assert len(trial.held_out) == 20, "what the training held out"
    assert {"auroc", "aurc", "rerr99"} <= set(trial.scores["metric"])
    assert set(trial.costs["attack"]) == {"fgsm", "pgd", "smallest-eps"}
    assert trial.result["threat"]["attacks"]["pgd"]["goal"] == "fool"
    flags = {flag.name for flag in trial.flags}
    assert all(f"  {name}: " in told for name in flags)
    assert ("no red flags" in told) is not flags
    assert list(run.summary.columns) == SUMMARY_COLUMNS
    assert run.info["study"] == "evaluate"
    assert (
        run.info["data"]["checksum"]
        == load_dataset("idx", data_dir=data_dir, validation=20).checksum
    )
    # The report is drawn again from the rows alone.
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_bytes() == before
    # And the evaluation can be repeated in its place, to the same rows.
    rows = next(out.glob("trials/*/rows.parquet"))
    bytes_before = rows.read_bytes()
    assert main(arguments) == 0
    assert rows.read_bytes() == bytes_before


def test_strict_fails_on_a_red_flag_and_a_threshold_comes_from_held_out_images(
    checkpoint: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "evaluate", str(checkpoint), "--data-dir", str(data_dir), "--out", str(tmp_path / "run"),
        "--eps", "0.1", "--attack", "fgsm", "--images", "10", "--smallest", "0", "--ood", "none",
        "--null-rate", "0.2", "--strict",
    ]  # fmt: skip
    assert main(arguments) == 1, "FGSM that evades says nothing about who can be fooled"
    assert "no-null-aware-attack" in capsys.readouterr().out
    (trial,) = read_run(tmp_path / "run").trials
    threshold = trial.result["threat"]["threshold"]
    assert threshold["origin"] == "held-out"
    assert threshold["num_images"] == 20
    is_null = trial.held_out["outcome"] == "null"
    assert is_null.mean() <= 0.2
    assert (is_null == (trial.held_out["null_score"] > 0)).all(), "scores are told past tau"
    assert trial.ood.empty


@pytest.fixture(scope="module")
def provable(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without null, of which something can be proved."""
    folder = tmp_path_factory.mktemp("provable") / "model"
    dataset = load_dataset("idx", data_dir=data_dir, validation=20)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(
            "certifiable-small", image_shape=(1, 8, 8), num_classes=3, has_null=False
        )
        images, labels = dataset.train.batch(slice(None))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(40):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_checkpoint(model, folder, metadata={"data": "idx", "training": {"validation": 20}})
    return folder


def test_certify_proves_keeps_and_checks(
    provable: Path, checkpoint: Path, data_dir: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kept = tmp_path / "certificates.json"
    ask = ["certify", str(provable), "--data-dir", str(data_dir), "--device", "cpu"]
    assert main([*ask, "--eps", "0.0002", "0.4"]) == 0
    assert "certified accuracy" in capsys.readouterr().out
    assert main([*ask, "--eps", "0.0002", "--radius", "0.0001", "--out", str(kept)]) == 0
    told = capsys.readouterr().out
    assert "RAR ≥" in told
    assert "Nothing is proved of null-DoS" in told
    assert f"certificates: {kept}" in told
    certificates = Certificates.load(kept)
    assert len(certificates) == 40
    assert certificates.num_proved > 20
    assert main([*ask, "--check", str(kept)]) == 0
    assert f"{certificates.num_proved} answers within linf 0.0001: proved anew" in (
        capsys.readouterr().out
    )
    # Of a network with null that was learned, too; but its answers have no certificates.
    learned = ["certify", str(checkpoint), "--data-dir", str(data_dir), "--device", "cpu"]
    assert main([*learned, "--eps", "0.001", "--images", "10"]) == 0
    assert "10 images, 1 eps" in capsys.readouterr().out
    for wrong, why in (
        ([*learned, "--radius", "0.1"], "no null of its own"),
        ([*learned, "--check", str(kept)], "without null"),
        ([*ask, "--out", str(kept)], "give --radius with --out"),
        ([*ask, "--radius", "1.5"], "radius must be in [0, 1]"),
        ([*ask, "--verifier", "guess"], "no verifier 'guess'"),
    ):
        assert main(wrong) == 2
        assert why in capsys.readouterr().err


def test_evaluate_a_model_deployed_with_a_radius(
    provable: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = [
        "evaluate", str(provable), "--data-dir", str(data_dir), "--out", str(out),
        "--eps", "0.0002", "0.3", "--attack", "pgd", "--images", "30", "--device", "cpu",
        "--smallest", "0", "--radius", "0.0001", "--proofs", "interval",
    ]  # fmt: skip
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "RAR ≥" in told
    assert "proof-broken" not in told
    run = read_run(out)
    (trial,) = run.trials
    assert set(trial.certified["eps_pixels"]) == {0.0002, 0.3}
    assert trial.certified["is_rar_proved"].any()
    clean = trial.rows[trial.rows["attack"] == "clean"].set_index("image")["prediction"]
    first = trial.certified[trial.certified["eps_pixels"] == 0.3].set_index("image")["prediction"]
    assert clean.equals(first)
    assert run.info["settings"]["radius"] == 0.0001
    assert main([*arguments, "--null-rate", "0.1"]) == 2
    assert "by a radius or by a threshold" in capsys.readouterr().err


def test_evaluate_in_l2(checkpoint: Path, data_dir: Path, tmp_path: Path) -> None:
    arguments = [
        "evaluate", str(checkpoint), "--data-dir", str(data_dir), "--out", str(tmp_path / "run"),
        "--eps", "0.5", "3", "--norm", "l2", "--attack", "null-aware-pgd", "--images", "10",
    ]  # fmt: skip
    assert main(arguments) == 0
    (trial,) = read_run(tmp_path / "run").trials
    assert set(trial.rows["norm"]) == {"l2"}


# As many threads as here: then the same sums, and the same bits.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def nullclass(*arguments: str, **settings: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nullclass.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A shell's background jobs ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **settings,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["data"],
        ["train"],
        ["curve"],
        ["evaluate"],
        ["certify"],
        ["zoo"],
        ["study"],
        ["report"],
    ],
)
def test_help_does_not_wait_for_torch(command: list[str]) -> None:
    code = (
        "import sys\n"
        "from nullclass.cli.main import main\n"
        "try:\n"
        f"    main({[*command, '--help']!r})\n"
        "except SystemExit as stopped:\n"
        "    assert stopped.code == 0, stopped.code\n"
        "slow = {'torch', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in command or ["data", "train", "evaluate", "study", "report"]:
        assert word in done.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_train_is_stopped_at_any_moment_and_goes_on_to_the_same_weights(
    how: signal.Signals, data_dir: Path, tmp_path: Path
) -> None:
    # Long enough to be caught in the middle, however busy the machine is.
    def arguments(out: Path) -> list[str]:
        return [*TRAIN, "--data-dir", str(data_dir), "--out", str(out), "--epochs", "40"]

    out = tmp_path / "stopped"
    running = nullclass(*arguments(out))
    deadline = time.monotonic() + 60
    while not (out / STATE).exists() and time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    running.send_signal(how)
    _, told = running.communicate(timeout=60)
    assert not (out / CARD).exists(), "caught before the end"
    if how == signal.SIGINT:
        assert running.returncode == 130
        assert (
            told.splitlines()[-1]
            == "nullclass: stopped; the same command goes on from the last whole epoch"
        )
        assert "Traceback" not in told
    else:
        assert running.returncode == -signal.SIGKILL
    whole = tmp_path / "whole"
    for folder in (out, whole):
        assert main(arguments(folder)) == 0
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    columns = ["epoch", "loss", "null_loss", "train_accuracy", "validation_accuracy"]
    found, expected = (pd.read_csv(f / "history.csv")[columns] for f in (out, whole))
    np.testing.assert_array_equal(found, expected)
    assert json.loads((out / CARD).read_text())["training"]["recipe"]["epochs"] == 40
    assert not (out / STATE).exists()


def test_a_reader_that_goes_away_is_no_error(data_dir: Path) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m nullclass.cli.main data idx --data-dir '{data_dir}' | true",
        shell=True,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


# Studies


class Engines:
    """Stands in for the worker processes, and remembers what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, DataSource, dict[str, Any]]] = []
        monkeypatch.setattr(engines, "make_engine", self)

    def __call__(self, name: str, source: DataSource, **settings: Any) -> SerialEngine:
        self.asked.append((name, source, settings))
        return SerialEngine(load(source), torch.device("cpu"))


def few_trials(preset: str, seeds: Sequence[int], variants: Sequence[str]) -> list[Trial]:
    """The notebook's study on tiny images."""
    shrunk = []
    for trial in FGSM_NULL.trials("quick", seeds, variants):
        fgsm, pgd = trial.attacks
        attacks = (
            replace(fgsm, num_images=20),
            replace(pgd, attack="null-aware-pgd", num_images=5,
                    settings={"num_steps": 2, "num_target_steps": 1}),
        )  # fmt: skip
        recipe = Recipe(batch_size=16, epochs=2, learning_rate=2e-3)
        training = replace(trial.training, dataset="idx", recipe=recipe)
        shrunk.append(
            replace(trial, training=training, attacks=attacks, num_clean=40, is_checked=False)
        )
    return shrunk


@pytest.fixture
def small_study(monkeypatch: pytest.MonkeyPatch) -> Engines:
    small = replace(FGSM_NULL, dataset="idx", trials=few_trials)
    monkeypatch.setitem(STUDIES, "fgsm-null", small)
    return Engines(monkeypatch)


def test_study_with_some_sets_and_variants_joins_the_run(
    small_study: Engines, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    def study(*more: str) -> str:
        arguments = ["study", "fgsm-null", "--out", str(out), "--data-dir", str(data_dir),
                     "--device", "cpu", *more]  # fmt: skip
        assert main(arguments) == 0
        told = capsys.readouterr()
        assert str(out / "report.html") in told.out.replace("\n", "")
        return told.err

    study("--variants", "clean-wd", "--sets", "1")
    assert {(t.model, t.seed) for t in read_run(out).trials} == {("clean-wd", 1)}
    more = ["--engine", "ray", "--workers", "3", "--threads", "2", "--address", "here"]
    told = study("--variants", "null-0.5-wd,clean-wd", "--sets", "0-1", *more)
    assert "2 of 8 jobs are finished already" in told
    run = read_run(out)
    assert [(t.model, t.seed) for t in run.trials] == [
        (model, seed) for model in ("clean-wd", "null-0.5-wd") for seed in (0, 1)
    ]
    assert run.info["seeds"] == [0, 1]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "clean-wd" in page
    assert "null-0.5-wd" in page
    first, second = small_study.asked
    source = DataSource("idx", str(data_dir.resolve()), 0)
    nothing = {"device": "cpu", "num_workers": None, "num_threads": None, "address": None}
    assert first == ("local", source, nothing)
    asked = {"device": "cpu", "num_workers": 3, "num_threads": 2, "address": "here"}
    assert second == ("ray", source, asked)


def test_study_that_gives_jobs_up_says_so_and_the_same_command_tries_them_again(
    small_study: Engines,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    arguments = ["study", "fgsm-null", "--out", str(out), "--data-dir", str(data_dir),
                 "--device", "cpu", "--variants", "clean-wd,null-0.5"]  # fmt: skip

    def broken(name: str, *_: object) -> object:
        raise UserError("the source is broken")

    with monkeypatch.context() as patched:
        patched.setattr(trainings, "make_nulls", broken)
        assert main(arguments) == 1
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    last = told.err.splitlines()[-1]
    assert last.startswith("nullclass: 2 jobs were given up, the rest is done; the same command")
    assert "training null-0.5, seed 0 (the source is broken)" in last
    assert (out / "report.html").exists(), "of what there is"
    assert [trial.model for trial in read_run(out).trials] == ["clean-wd"]
    assert main(arguments) == 0
    assert "2 of 4 jobs are finished already" in capsys.readouterr().err
    assert [trial.model for trial in read_run(out).trials] == ["clean-wd", "null-0.5"]


def test_a_study_somebody_else_runs_is_left_alone(
    small_study: Engines, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with locked(out):
        arguments = ["study", "fgsm-null", "--out", str(out), "--data-dir", str(data_dir)]
        assert main([*arguments, "--device", "cpu"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("nullclass: another process is writing to")
    assert [path.name for path in out.iterdir()] == [LOCK]


def test_numbers_are_read_as_people_write_them() -> None:
    assert numbers("3") == [3]
    assert numbers("0-4") == [0, 1, 2, 3, 4]
    assert numbers("0,3,5-7") == [0, 3, 5, 6, 7]
    assert numbers(" 2 , 1-3 ") == [2, 1, 3], "each once, in the order given"
