"""The command line on a tiny dataset: what works. Mistakes are in ``test_bad_input.py``."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from msgspec import structs
from pandas_defaults import check_tables

from nullclass import UserError, load_checkpoint, load_dataset, save_checkpoint
from nullclass.cli import COMMANDS
from nullclass.cli.main import OUTPUT_LOST, main
from nullclass.cli.study import parse_numbers
from nullclass.core.files import LOCK, locked
from nullclass.experiments import engines, trainings
from nullclass.experiments.config import Trial
from nullclass.experiments.engines import DataSource
from nullclass.experiments.engines.serial import SerialEngine, load
from nullclass.models import build_model
from nullclass.rejection import Certificates, ProvableNull
from nullclass.results.info import ProofInfo
from nullclass.results.schema import (
    CLEAN,
    COSTS,
    HELD_OUT,
    OOD,
    ROW_COLUMNS,
    ROWS,
    SCORES,
    STATE,
    SUMMARY,
    SUMMARY_COLUMNS,
)
from nullclass.studies import STUDIES
from nullclass.studies.fgsm_null.config import FGSM_NULL
from nullclass.studies.reports import read_run
from nullclass.training.card import CARD, Card, Origin, read_card
from nullclass.training.checkpoint import WEIGHTS
from nullclass.training.recipes import Recipe

TRAIN = ["train", "--validation", "20", "--epochs", "3", "--device", "cpu",
         "--model", "small"]  # fmt: skip
Captured = pytest.CaptureFixture[str]


def train(data_folder: Path, out: Path, *options: str) -> tuple[Any, Card]:
    """Train with some options; the checkpoint."""
    assert main([*TRAIN, "--data", str(data_folder), "--out", str(out), *options]) == 0
    return load_checkpoint(out)


@pytest.fixture(scope="module")
def checkpoint(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "model"
    train(data_folder, out)
    return out


def test_data(data_folder: Path, tmp_path: Path, capsys: Captured) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["data", "show", str(data_folder), "--out", str(sheet)]) == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    dataset = load_dataset(data_folder, validation=0)
    assert "160 training and 40 test images of 1 x 8 x 8, 3 classes" in printed
    assert dataset.checksum in printed
    assert str(data_folder) in printed


# Training


def test_train(checkpoint: Path, data_folder: Path, tmp_path: Path, capsys: Captured) -> None:
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        LOCK, CARD, "history.csv", WEIGHTS
    ]  # fmt: skip
    model, card = load_checkpoint(checkpoint)
    dataset = load_dataset(data_folder, validation=20)
    assert card.origin.data_checksum == dataset.checksum
    assert card.origin.training["nulls"] == {
        "source": "adversarial", "settings": {"eps": 0.154, "num_steps": 1}, "weight": 1 / 11,
        "replace_rate": None, "estimate": None,
    }  # fmt: skip
    assert (card.num_classes, card.num_nulls, card.origin.num_held_out) == (3, 1, 20)
    history = pd.read_csv(checkpoint / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    images, labels = dataset.validation.batch(slice(None))
    accuracy = float((model.predict(images) == labels).double().mean())
    assert history["validation_accuracy"].iloc[-1] == pytest.approx(accuracy)
    # The same command gives the same weights, another seed gives others.
    train(data_folder, tmp_path / "again")
    assert "checkpoint:" in capsys.readouterr().out
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (checkpoint / WEIGHTS).read_bytes()
    train(data_folder, tmp_path / "other", "--seed", "1")
    assert (tmp_path / "other" / WEIGHTS).read_bytes() != (checkpoint / WEIGHTS).read_bytes()


def test_options_of_train(data_folder: Path, tmp_path: Path) -> None:
    model, card = train(
        data_folder, tmp_path / "clean", "--model", "report", "--nulls", "none", "--weight-decay",
        "0", "--learning-rate", "0.002", "--epochs", "1", "--validation", "0",
    )  # fmt: skip
    assert (model.has_null, model.architecture) == (False, "report")
    assert card.origin.training["recipe"]["learning_rate"] == 0.002
    assert card.origin.training["nulls"] is None
    model, card = train(
        data_folder, tmp_path / "several", "--nulls", "uniform", "adversarial", "mixed",
        "--replace-rate", "0.4", "--null-eps", "0.2", "--epochs", "6",
    )  # fmt: skip
    assert card.origin.training["nulls"] == {
        "source": "any-of",
        "settings": {
            "sources": {"uniform": {}, "adversarial": {"eps": 0.2, "num_steps": 1}, "mixed": {}}
        },
        "weight": None,
        "replace_rate": 0.4,
        "estimate": None,
    }
    assert model.has_null
    assert pd.read_csv(tmp_path / "several" / "history.csv")["null_loss"].notna().all()
    model, card = train(data_folder, tmp_path / "per-class", "--per-class-null")
    assert (model.num_nulls, card.num_nulls) == (3, 3)
    ccat = ["--nulls", "ccat", "--null-steps", "2", "--uniform-targets"]
    model, card = train(data_folder, tmp_path / "ccat", *ccat)
    assert not model.has_null
    assert (card.origin.nulls["eps"], card.origin.nulls["num_steps"]) == (0.3, 2)
    model, card = train(data_folder, tmp_path / "abstain", "--robust", "abstain", "--epochs", "1")
    assert model.has_null
    assert card.origin.training["robust"] == {"loss": "abstain", "settings": {"eps": 0.2}}


def test_null_probabilities(data_folder: Path, tmp_path: Path, capsys: Captured) -> None:
    """From a clean model to its null curve to a model trained on it."""
    clean, table = tmp_path / "clean", tmp_path / "f.csv"
    held_out = ["--validation", "70", "--learning-rate", "0.005"]
    train(data_folder, clean, "--nulls", "none", "--epochs", "30", *held_out)
    capsys.readouterr()
    curve = ["curve", str(clean), "--out", str(table), "--data", str(data_folder),
             "--perturbation", "pgd", "--steps", "3", "--norm", "l2", "--sizes", "5",
             "--images", "65", "--always", "0.6", "--device", "cpu"]  # fmt: skip
    assert main(curve) == 0
    printed = capsys.readouterr().out
    assert "held-out images, pgd: always fooled from" in printed
    assert f"curve: {table}" in printed
    found = pd.read_csv(table)
    assert len(found) == 5
    assert found["probability"].iloc[-1] == 1
    assert found["size"].is_monotonic_increasing
    soft = ["--nulls", "null-probabilities", "--curve", str(table), "--epochs", "2"]
    model, card = train(data_folder, tmp_path / "soft", *soft, *held_out)
    assert model.has_null
    assert card.origin.nulls["curve"]["sizes"] == found["size"].tolist()
    assert card.origin.nulls["perturbation"] == "pgd", "as the curve's file says"
    assert card.origin.nulls["perturbation_settings"] == {"num_steps": 3}
    assert card.origin.nulls["curve"]["num_images"] == found["num_images"].iloc[0] >= 50
    assert card.origin.training["nulls"]["weight"] == 2
    assert card.origin.training["recipe"]["nulls_per_image"] == 1


def test_substitute_and_transfer(
    checkpoint: Path, data_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    out, table = tmp_path / "substitute", tmp_path / "matrix.csv"
    query = ["substitute", str(checkpoint), "--out", str(out), "--queries", "30", "--seeds", "12",
             "--data", str(data_folder), "--device", "cpu"]  # fmt: skip
    assert main(query) == 0
    assert "30 queries in 3 rounds; the substitute agrees with" in capsys.readouterr().out
    _, card = load_checkpoint(out)
    _, target = load_checkpoint(checkpoint)
    assert (card.origin.queried, card.origin.num_queries) == (target.weights_sha256, 30)
    transfer = ["transfer", "--sources", str(out), str(checkpoint), "--targets", str(checkpoint),
                "--eps", "0.1", "0.3", "--images", "20", "--data", str(data_folder),
                "--out", str(table), "--device", "cpu"]  # fmt: skip
    assert main(transfer) == 0
    assert "transfer of mi-fgsm, linf, 20 test images" in capsys.readouterr().out
    matrix = pd.read_csv(table)
    assert len(matrix) == 4
    assert set(matrix["source"]) == {str(out), str(checkpoint)}
    assert np.allclose(matrix["correct_rate"] + matrix["null_rate"] + matrix["fooled_rate"], 1)


# Evaluating and proving


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Draws no reports, which takes seconds; the run folders of which one was requested."""
    folders: list[Path] = []

    def print_report(folder: Path) -> bool:
        folders.append(folder)
        return True

    for command in ("evaluate", "study", "report"):
        monkeypatch.setattr(f"nullclass.cli.{command}.print_report", print_report)
    return folders


def test_evaluate(
    checkpoint: Path, data_folder: Path, tmp_path: Path, capsys: Captured, no_report: list[Path]
) -> None:
    out = tmp_path / "run"
    arguments = ["evaluate", str(checkpoint), "--data", str(data_folder), "--out", str(out),
                 "--eps", "0.05", "0.3", "--attack", "fgsm", "pgd", "--images", "30",
                 "--device", "cpu", "--smallest", "6"]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert main(["report", str(out)]) == 0
    assert no_report == [out, out]
    run = read_run(out)
    (trial,) = run.trials
    assert list(trial.rows.columns) == list(ROW_COLUMNS)
    counts = trial.rows.groupby(["attack", "eps_pixels"]).size().to_dict()
    expected = [(CLEAN, 0.0), *((name, eps) for name in ("fgsm", "pgd") for eps in (0.05, 0.3))]
    smallest = {key: count for key, count in counts.items() if key[0] == "smallest-eps"}
    assert sum(smallest.values()) == 6
    assert counts == dict.fromkeys(expected, 30) | smallest
    assert set(trial.ood["source"]) == {"noise", "blank", "tiles"}
    assert len(trial.held_out) == 20, "what the training held out"
    assert {"auroc", "aurc", "rerr99"} <= set(trial.scores["metric"])
    assert trial.result.threat.attacks["pgd"].objective == "fool"
    assert all(f"  {flag.name}: " in printed for flag in trial.flags)
    assert list(run.summary.columns) == list(SUMMARY_COLUMNS)
    assert run.info.study == "evaluate"
    assert check_tables(out) >= {ROWS, COSTS, OOD, HELD_OUT, SCORES, SUMMARY}


def test_strict_evaluation_in_l2_with_a_threshold(
    checkpoint: Path,
    data_folder: Path,
    tmp_path: Path,
    capsys: Captured,
    no_report: list[Path],
) -> None:
    arguments = ["evaluate", str(checkpoint), "--data", str(data_folder), "--out",
                 str(tmp_path / "run"), "--eps", "0.5", "--norm", "l2", "--attack", "fgsm",
                 "--images", "10", "--smallest", "0", "--ood", "none", "--null-rate", "0.2",
                 "--strict"]  # fmt: skip
    assert main(arguments) == 1, "one step is no strong attack"
    assert " red flag" in capsys.readouterr().out
    (trial,) = read_run(tmp_path / "run").trials
    assert set(trial.rows["norm"]) == {"l2"}
    threshold = trial.result.threat.threshold
    assert threshold is not None
    assert (threshold.origin, threshold.num_images) == ("held-out", 20)
    is_null = trial.held_out["outcome"] == "null"
    assert is_null.mean() <= 0.2
    assert (is_null == (trial.held_out["null_score"] > 0)).all(), "scores are relative to it"
    assert trial.ood.empty
    rows = (trial.folder / ROWS).read_bytes()
    assert main(arguments) == 1
    assert (trial.folder / ROWS).read_bytes() == rows, "a repeated evaluation"
    assert no_report == [tmp_path / "run"] * 2


@pytest.fixture(scope="module")
def provable(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without null class, of which something can be proved."""
    folder = tmp_path_factory.mktemp("provable") / "model"
    dataset = load_dataset(data_folder, validation=20)
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
    origin = Origin(data="letters", data_checksum=dataset.checksum, num_held_out=20)
    save_checkpoint(model, folder, origin=origin)
    return folder


def test_certify(
    provable: Path, checkpoint: Path, data_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "certificates.json"
    certify = ["certify", str(provable), "--data", str(data_folder), "--device", "cpu"]
    assert main([*certify, "--eps", "0.0002", "0.4"]) == 0
    assert "certified accuracy" in capsys.readouterr().out
    assert main([*certify, "--eps", "0.0002", "--radius", "0.0001", "--out", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "RAR ≥" in printed
    assert "Nothing is proved about null-DoS" in printed
    assert f"certificates: {path}" in printed
    certificates = Certificates.load(path)
    assert len(certificates) == 40
    assert certificates.num_proved > 20
    assert main([*certify, "--check", str(path)]) == 0
    expected = f"{certificates.num_proved} answers within linf 0.0001: proved again"
    assert expected in capsys.readouterr().out
    cascade = [*certify, "--verifier", "cascade", "--images", "6"]
    rows = tmp_path / "rows.csv"
    assert main([*cascade, "--eps", "0.0002", "--radius", "0.0001", "--rows", str(rows)]) == 0
    printed = capsys.readouterr()
    assert "stages of the cascade within 0.0001" in printed.out
    assert "proofs:" in printed.err, "progress"
    assert len(pd.read_csv(rows)) == 6
    # A table for every eps, also where intervals settle all images.
    assert main([*cascade, "--eps", "0.00002", "0.00001", "--rows", str(rows)]) == 0
    printed = capsys.readouterr()
    for eps in (0.00001, 0.00002):
        assert f"stages of the cascade within {eps:g};" in printed.out
    table = pd.read_csv(rows)
    assert table["radius"].tolist() == [0.00001] * 6 + [0.00002] * 6
    assert set(table["status"]) <= {"proved", "refuted", "open"}
    assert {path.name for path in tmp_path.iterdir()} == {"certificates.json", "rows.csv"}
    # A network with a learned null can be proved too, but its answers have no certificates.
    learned = ["certify", str(checkpoint), "--data", str(data_folder), "--device", "cpu"]
    assert main([*learned, "--eps", "0.001", "--images", "10"]) == 0
    assert "10 images, 1 eps" in capsys.readouterr().out
    for wrong in (
        [*learned, "--radius", "0.1"],
        [*learned, "--check", str(path)],
        [*certify, "--radius", "1.5"],
        [*certify, "--rows", str(rows)],
        [*certify, "--check", str(path), "--rows", str(rows)],
    ):
        assert main(wrong) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_certify_a_checkpoint_that_answers_what_it_proves(
    provable: Path, data_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    network, card = load_checkpoint(provable)
    model = ProvableNull(network, 0.0001, verifier="crown-ibp")
    save_checkpoint(model, tmp_path / "model", origin=card.origin)
    path = tmp_path / "certificates.json"
    certify = ["certify", str(tmp_path / "model"), "--data", str(data_folder), "--device", "cpu"]
    assert main([*certify, "--eps", "0.0002", "--out", str(path)]) == 0
    assert "(linf, crown-ibp)" in capsys.readouterr().out
    assert main([*certify, "--check", str(path)]) == 0
    assert "answers within linf 0.0001: proved again" in capsys.readouterr().out
    other = tmp_path / "other.json"
    by_intervals = ["--radius", "0.0002", "--verifier", "interval", "--out", str(other)]
    assert main([*certify, *by_intervals]) == 0
    assert "(linf, interval)" in capsys.readouterr().out
    certificates = Certificates.load(other)
    assert (certificates.radius, certificates.verifier) == (0.0002, "interval")


def test_the_flag_for_weights_selected_on_test_images_needs_no_folder_name(
    checkpoint: Path, data_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    model, card = load_checkpoint(checkpoint)
    origin = structs.replace(card.origin, selected_on="test")
    save_checkpoint(model, tmp_path / "best", origin=origin)
    few = ["--attack", "fgsm", "--smallest", "0", "--ood", "none", "--images", "5", "--eps", "0.1"]
    options = ["--data", str(data_folder), "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["evaluate", str(tmp_path / "best"), *few, *options]) == 0
    assert "weights-on-test" in capsys.readouterr().out


def test_evaluate_with_a_radius_and_draw_the_report(
    provable: Path, data_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    arguments = ["evaluate", str(provable), "--data", str(data_folder), "--out",
                 str(tmp_path / "run"), "--eps", "0.0002", "0.3", "--attack", "pgd", "--images",
                 "30", "--device", "cpu", "--smallest", "3", "--radius", "0.0001", "--proofs",
                 "interval", "--distribution"]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "proof-broken" not in printed
    assert "RAR ≥" in printed
    assert f"report: {tmp_path / 'run' / 'report.html'}" in printed
    run = read_run(tmp_path / "run")
    (trial,) = run.trials
    assert set(trial.certified["eps_pixels"]) == {0.0002, 0.3}
    assert trial.certified["is_rar_proved"].any()
    assert trial.proved_eps["image"].tolist() == [0, 1, 2]
    assert trial.result.threat.proof == ProofInfo(0.0001, "linf", "interval")
    assert trial.result.threat.selected_on is None, "the card has no training"
    assert run.info.settings.evaluation["radius"] == 0.0001
    assert run.info.settings.evaluation["verifier"] == "interval"
    assert main([*arguments, "--null-rate", "0.1"]) == 2
    assert "not both" in capsys.readouterr().err
    network, card = load_checkpoint(provable)
    save_checkpoint(ProvableNull(network, 0.0001), tmp_path / "proves", origin=card.origin)
    of_card = ["evaluate", str(tmp_path / "proves"), "--data", str(data_folder), "--eps", "0.1"]
    assert main([*of_card, "--null-rate", "0.1", "--out", str(tmp_path / "other")]) == 2
    assert "not both" in capsys.readouterr().err


@pytest.mark.usefixtures("mnist")
def test_zoo_models_by_name(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, no_report: list[Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--images", "5", "--eps", "0.1", "--device", "cpu"]
    few = ["--attack", "fgsm", "--smallest", "0", "--ood", "none"]
    for checks in ("--no-checks", "--checks"):
        no_report.clear()
        assert main(["evaluate", "notebook-null", *arguments, *few, checks]) == 0
        (folder,) = no_report
        assert folder.name.startswith("notebook-null-")
        (trial,) = read_run(folder).trials
        assert trial.model == "notebook-null"
        assert bool(trial.result.probes) == (checks == "--checks")
    assert main(["certify", "provable-0.3", *arguments]) == 0
    assert "RAR ≥" in capsys.readouterr().out, "with the radius of its card"
    assert main(["certify", "provable-0.3", *arguments, "--norm", "l2"]) == 2
    assert "the model proves its answers in linf" in capsys.readouterr().err


# Processes


# As many threads as here: then the same sums, and the same bits.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def test_a_summary_is_the_first_line_of_its_command() -> None:
    docstrings = {name: import_module(f"nullclass.cli.{name}").Command.__doc__ for name in COMMANDS}
    assert {name: text.splitlines()[0] for name, text in docstrings.items()} == COMMANDS


def test_help_and_version_do_not_load_torch() -> None:
    """In a fresh process; the same one lists the zoo and the datasets."""
    code = (
        "import sys\n"
        "from nullclass.cli.main import main\n"
        "assert main(['--help']) == main(['--version']) == 0\n"
        "assert 'tyro' not in sys.modules\n"
        f"for name in {list(COMMANDS)}:\n"
        "    try:\n"
        "        main([name, '--help'])\n"
        "    except SystemExit as stopped:\n"
        "        assert stopped.code == 0, stopped.code\n"
        "slow = {'torch', 'pandas', 'numpy', 'scipy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow, slow\n"
        "from nullclass.data import DATASETS, fetch\n"
        "assert main(['zoo', 'list']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summaries, _, helps = done.stdout.partition("nullclass 0.")
    for name, summary in COMMANDS.items():
        assert f"  {name} " in summaries
        assert summary in summaries
        assert f"usage: nullclass {name} " in helps


# Long enough to be stopped in the middle, however busy the machine is.
LONG = ("--model", "notebook", "--epochs", "15")


@pytest.fixture(scope="module")
def uninterrupted(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "model"
    train(data_folder, folder, *LONG)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_training_resumes_to_the_same_weights(
    how: signal.Signals, data_folder: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    out = tmp_path / "stopped"
    running = subprocess.Popen(
        [sys.executable, "-m", "nullclass.cli.main", *TRAIN, "--data", str(data_folder),
         "--out", str(out), *LONG],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A shell's background jobs ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (out / STATE).exists() and time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    running.send_signal(how)
    _, errors = running.communicate(timeout=60)
    assert not (out / CARD).exists(), "caught before the end"
    if how == signal.SIGINT:
        assert running.returncode == 130
        assert errors.splitlines()[-1] == "nullclass: interrupted; the same command resumes it"
        assert "Traceback" not in errors
    train(data_folder, out, *LONG)
    assert (out / WEIGHTS).read_bytes() == (uninterrupted / WEIGHTS).read_bytes()
    columns = ["epoch", "loss", "null_loss", "train_accuracy", "validation_accuracy"]
    found, expected = (pd.read_csv(f / "history.csv")[columns] for f in (out, uninterrupted))
    np.testing.assert_array_equal(found, expected)
    assert read_card(out).origin.training["recipe"]["epochs"] == 15
    assert not (out / STATE).exists()


def test_a_stopped_training_goes_on_and_a_damaged_state_starts_again(
    data_folder: Path, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    options = [*TRAIN, "--data", str(data_folder), "--out", str(out)]

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for target in ("write_frame", "save_checkpoint"):  # at the end; all epochs are done
        with monkeypatch.context() as patched:
            owner = trainings.frames if target == "write_frame" else trainings
            patched.setattr(owner, target, stopped)
            assert main(options) == 130
        assert (out / STATE).exists()
    content = bytearray((out / STATE).read_bytes())
    assert main([*options, "--seed", "1"]) == 2
    assert "belongs to a training with other settings" in capsys.readouterr().err
    with locked(out):
        assert main(options) == 2
    assert "another process is writing to" in capsys.readouterr().err
    content[-100] ^= 1
    (out / STATE).write_bytes(content)
    assert main(options) == 0
    assert "is damaged, so the work starts again" in capsys.readouterr().err
    names = [LOCK, CARD, "history.csv", WEIGHTS]
    assert sorted(path.name for path in out.iterdir()) == names
    assert (out / WEIGHTS).read_bytes() == (checkpoint / WEIGHTS).read_bytes()


def test_output_that_cannot_be_printed_costs_the_printing_only(
    data_folder: Path, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:  # fmt: skip
    train_words = [*TRAIN, "--data", str(data_folder), "--out"]
    with monkeypatch.context() as patched, open("/dev/full", "w") as full:
        patched.setattr(sys, "stdout", full)
        assert main([*train_words, str(tmp_path / "full")]) == OUTPUT_LOST == 3
        assert main([*train_words, str(tmp_path / "full")]) == 2, "refused as with any other output"
    says = "nullclass: standard output could not be written: No space left on device"
    assert says in capsys.readouterr().err.splitlines()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)  # closed
        assert main([*train_words, str(tmp_path / "closed")]) == 0
    with monkeypatch.context() as patched, open("/dev/full", "w") as full:
        patched.setattr(sys, "stderr", full)
        assert main([*train_words, str(tmp_path / "errors")]) == 0
    with monkeypatch.context() as patched, (tmp_path / "log").open("w", encoding="ascii") as log:
        patched.setattr(sys, "stdout", log)
        assert main(["zoo", "show", "notebook-null"]) == 0
    assert "FGSM images of the current network at \\u03b5 0.154" in (tmp_path / "log").read_text()
    for name in ("full", "closed", "errors"):
        assert (tmp_path / name / WEIGHTS).read_bytes() == (checkpoint / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (RecursionError(), "the input is nested too deeply"),
    ],
)
def test_input_that_is_too_much(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("nullclass.zoo.members.find_members", fails)
    assert main(["zoo", "list"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nullclass: {says}")


@pytest.mark.slow
def test_nothing_is_left_to_print_when_the_interpreter_ends() -> None:
    for redirection, expected in (("> /dev/full", 3), (">&- 2>&-", 0), ("2> /dev/full", 0)):
        words = (sys.executable, "-m", "nullclass.cli.main", "zoo")
        done = subprocess.run(
            f"{shlex.join(words)} {redirection}", shell=True, capture_output=True, text=True
        )
        assert done.returncode == expected
        assert len(done.stderr.splitlines()) == (expected == 3)


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(data_folder: Path) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m nullclass.cli.main data show '{data_folder}' | true",
        shell=True,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


# Studies


class Engines:
    """Replaces the worker processes, and records the arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, DataSource, dict[str, Any]]] = []
        monkeypatch.setattr(engines, "make_engine", self)

    def __call__(self, name: str, source: DataSource, **settings: Any) -> SerialEngine:
        self.calls.append((name, source, settings))
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
        training = replace(trial.training, dataset="letters", architecture="small", recipe=recipe)
        shrunk.append(
            replace(trial, training=training, attacks=attacks, num_clean=40, is_checked=False)
        )
    return shrunk


@pytest.fixture
def small_study(monkeypatch: pytest.MonkeyPatch) -> Engines:
    small = replace(FGSM_NULL, dataset="letters", trials=few_trials)
    monkeypatch.setitem(STUDIES, "fgsm-null", small)
    return Engines(monkeypatch)


def test_study_by_sets_and_variants(
    small_study: Engines,
    data_folder: Path,
    tmp_path: Path,
    capsys: Captured,
    no_report: list[Path],
) -> None:
    out = tmp_path / "run"

    def study(*options: str) -> str:
        arguments = ["study", "fgsm-null", "--out", str(out), "--data", str(data_folder),
                     "--device", "cpu", *options]  # fmt: skip
        assert main(arguments) == 0
        return capsys.readouterr().err

    study("--variants", "clean-wd", "--sets", "1")
    assert {(t.model, t.seed) for t in read_run(out).trials} == {("clean-wd", 1)}
    more = ["--engine", "ray", "--workers", "3", "--threads", "2", "--address", "here"]
    errors = study("--variants", "null-0.5-wd,clean-wd", "--sets", "0-1", *more)
    assert "2 of 8 jobs are finished already" in errors
    run = read_run(out)
    assert [(t.model, t.seed) for t in run.trials] == [
        (model, seed) for model in ("clean-wd", "null-0.5-wd") for seed in (0, 1)
    ]
    assert no_report == [out, out]
    source = DataSource(str(data_folder.resolve()), 0)
    default = {"device": "cpu", "num_workers": None, "num_threads": None, "address": None}
    chosen = {"device": "cpu", "num_workers": 3, "num_threads": 2, "address": "here"}
    assert small_study.calls == [("local", source, default), ("ray", source, chosen)]
    # A folder in use, or of another preset, is left alone.
    study_again = ["study", "fgsm-null", "--out", str(out), "--data", str(data_folder)]
    with locked(out):
        assert main([*study_again, "--device", "cpu"]) == 2
    assert capsys.readouterr().err.startswith("nullclass: another process is writing to")
    assert main([*study_again, "--device", "cpu", "--preset", "full"]) == 2
    assert "other settings or data" in capsys.readouterr().err
    assert (out / LOCK).exists()


def test_study_with_failed_jobs(
    small_study: Engines,
    data_folder: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    no_report: list[Path],
) -> None:
    out = tmp_path / "run"
    arguments = ["study", "fgsm-null", "--out", str(out), "--data", str(data_folder),
                 "--device", "cpu", "--variants", "clean-wd,null-0.5"]  # fmt: skip

    def broken(name: str, *_: object) -> object:
        raise UserError("the source is broken")

    with monkeypatch.context() as patched:
        patched.setattr(trainings, "make_nulls", broken)
        assert main(arguments) == 1
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("nullclass: 2 jobs failed, the others are finished; the same command")
    assert "training null-0.5, seed 0 (the source is broken)" in last
    assert [trial.model for trial in read_run(out).trials] == ["clean-wd"]
    assert main(arguments) == 0
    assert no_report == [out, out], "of what there is"
    assert "2 of 4 jobs are finished already" in capsys.readouterr().err
    assert [trial.model for trial in read_run(out).trials] == ["clean-wd", "null-0.5"]


def test_lists_of_numbers() -> None:
    assert parse_numbers("3") == [3]
    assert parse_numbers("0-4") == [0, 1, 2, 3, 4]
    assert parse_numbers("0,3,5-7") == [0, 3, 5, 6, 7]
    assert parse_numbers(" 2 , 1-3 ") == [2, 1, 3], "each once, in the order given"
