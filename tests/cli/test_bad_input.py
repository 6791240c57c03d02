"""Each mistake gets one clear sentence, exit status 2, no traceback, and nothing half-written."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import write_dataset
from tiny import learnable_arrays, learnable_dataset

from nullclass import UserError, load_checkpoint, save_checkpoint
from nullclass.attacks import FGSM
from nullclass.cli.main import main
from nullclass.data import FILE_NAMES
from nullclass.evaluation import run as evaluate
from nullclass.models import build_model
from nullclass.training.checkpoint import CARD, WEIGHTS

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILE_NAMES
Refused = Callable[..., str]


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Run the command line and check how it says no; returns the sentence."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, says: str) -> str:
        before = files_of(tmp_path)
        status = main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        assert status == 2, told
        assert told.out == ""
        check_sentence(told.err, says)
        assert files_of(tmp_path) == before, "nothing written, nothing half-written"
        return told.err

    return run


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_sentence(told: str, says: str) -> None:
    lines = told.splitlines()
    assert len(lines) == 1, told
    assert lines[0].startswith("nullclass: ")
    assert "Traceback" not in told
    assert re.search(says, told), told
    assert len(told) < 500


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return learnable_dataset(tmp_path / "data")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained model of the tiny data: good enough to be refused."""
    folder = tmp_path / "checkpoint"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("notebook", image_shape=(1, 8, 8), num_classes=3)
    save_checkpoint(model, folder, metadata={"data": "idx"})
    return folder


def train_arguments(data_dir: Path, out: Path | str = "out") -> list[object]:
    return ["train", "--dataset", "idx", "--data-dir", data_dir, "--out", out, "--validation", 9,
            "--epochs", 1, "--device", "cpu"]  # fmt: skip


def evaluate_arguments(checkpoint: Path, data_dir: Path) -> list[object]:
    return ["evaluate", checkpoint, "--data-dir", data_dir, "--out", "out", "--images", 5,
            "--eps", 0.1, "--attack", "fgsm", "--device", "cpu"]  # fmt: skip


# Data


def rewrite(data_dir: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (data_dir / name).write_bytes(change((data_dir / name).read_bytes()))


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("x")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


BAD_DATA: list[tuple[str, Callable[[Path], object], str]] = [
    ("no such folder", shutil.rmtree, "is not a folder"),
    ("an empty folder", lambda d: [p.unlink() for p in d.iterdir()], "lacks train-images"),
    ("a file missing", lambda d: (d / TEST_LABELS).unlink(), f"lacks {TEST_LABELS}"),
    ("truncated", lambda d: rewrite(d, TRAIN_IMAGES, lambda b: b[:-1]), "is truncated"),
    ("truncated header", lambda d: rewrite(d, TEST_LABELS, lambda b: b[:6]), "inside its header"),
    ("empty", lambda d: rewrite(d, TEST_IMAGES, lambda b: b""), "is not an IDX file"),
    ("too long", lambda d: rewrite(d, TRAIN_LABELS, lambda b: b + b"\0"), "goes on after"),
    ("corrupt", lambda d: rewrite(d, TRAIN_IMAGES, lambda b: b"<html>" + b[6:]), "not an IDX file"),
    (
        "swapped",
        lambda d: swap(d / TRAIN_IMAGES, d / TRAIN_LABELS),
        "swapped",
    ),
    (
        "test and training swapped in part",
        lambda d: swap(d / TRAIN_LABELS, d / TEST_LABELS),
        "160 images but .* 40 labels",
    ),
    (
        "a broken gzip file",
        lambda d: (
            (d / f"{TRAIN_IMAGES}.gz").write_bytes(
                gzip.compress((d / TRAIN_IMAGES).read_bytes())[:-30]
            ),
            (d / TRAIN_IMAGES).unlink(),
        ),
        "broken gzip file",
    ),
]


@pytest.mark.parametrize(
    ("damage", "says"), [case[1:] for case in BAD_DATA], ids=[case[0] for case in BAD_DATA]
)
def test_bad_data(
    damage: Callable[[Path], object],
    says: str,
    refused: Refused,
    data_dir: Path,
    checkpoint: Path,
) -> None:
    damage(data_dir)
    refused("data", "idx", "--data-dir", data_dir, says=says)
    refused(*train_arguments(data_dir), says=says)
    refused(*evaluate_arguments(checkpoint, data_dir), says=says)
    if "lacks" in says or "is not a folder" in says:
        refused("study", "fgsm-null", "--data-dir", data_dir, "--out", "out", says=says)


def test_other_files_under_the_names_of_mnist(refused: Refused, data_dir: Path) -> None:
    for arguments in (
        ["data", "mnist", "--data-dir", data_dir],
        ["train", "--out", "out", "--data-dir", data_dir],
        ["study", "fgsm-null", "--data-dir", data_dir, "--out", "out"],
    ):
        refused(*arguments, says="MNIST|checksum")


def test_labels_out_of_range(refused: Refused, checkpoint: Path, tmp_path: Path) -> None:
    arrays = learnable_arrays()
    arrays[TEST_LABELS] = arrays[TEST_LABELS].copy()
    arrays[TEST_LABELS][3] = 9
    folder = write_dataset(tmp_path / "other", arrays)
    refused(
        *evaluate_arguments(checkpoint, folder), says="labels run from 0 to 9; the model has the"
    )


def test_one_class_only(refused: Refused, tmp_path: Path) -> None:
    arrays = learnable_arrays()
    for name in (TRAIN_LABELS, TEST_LABELS):
        arrays[name] = np.zeros_like(arrays[name])
    folder = write_dataset(tmp_path / "other", arrays)
    refused(*train_arguments(folder), says="at least two classes")


def test_images_of_another_size(refused: Refused, checkpoint: Path, tmp_path: Path) -> None:
    arrays = learnable_arrays()
    for name in (TRAIN_IMAGES, TEST_IMAGES):
        arrays[name] = np.repeat(arrays[name], 2, axis=1)
    folder = write_dataset(tmp_path / "other", arrays)
    refused(*evaluate_arguments(checkpoint, folder), says=r"takes images of \(1, 8, 8\)")


def test_images_too_small(refused: Refused, tmp_path: Path) -> None:
    arrays = learnable_arrays()
    for name in (TRAIN_IMAGES, TEST_IMAGES):
        arrays[name] = arrays[name][:, :4, :4]
    folder = write_dataset(tmp_path / "other", arrays)
    refused(*train_arguments(folder), says="too small")


@pytest.mark.parametrize("value", [1.5, -0.5, float("nan")])
def test_pixels_that_are_none_through_the_library(value: float, checkpoint: Path) -> None:
    model, _ = load_checkpoint(checkpoint)
    images = torch.rand(4, 1, 8, 8)
    images[0, 0, 0, 0] = value
    with pytest.raises(UserError, match=r"NaN|not within \[0, 1\]"):
        evaluate(
            model, (images, torch.arange(4) % 3), attacks={"fgsm": FGSM("untargeted")}, eps=[0.1]
        )


# Numbers and names


@pytest.mark.parametrize("eps", ["-0.1", "1.01", "76", "nan", "inf"])
def test_senseless_budgets(eps: str, refused: Refused, data_dir: Path, checkpoint: Path) -> None:
    arguments = [*evaluate_arguments(checkpoint, data_dir), "--eps", eps]
    refused(*arguments, says=r"eps .* outside \[0, 1\].*pixel units")


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--null-eps", "-0.1", "eps must be in"),
        ("--null-eps", "39", "eps must be in"),
        ("--null-eps", "nan", "eps must be in"),
        ("--null-steps", "0", "at least one step"),
        ("--null-weight", "-1", "null_weight must be finite"),
        ("--weight-decay", "nan", "weight_decay must be finite"),
        ("--epochs", "0", "of at least 1"),
        ("--validation", "160", "cannot hold out 160 of 160"),
        ("--validation", "-1", "cannot hold out"),
        ("--model", "resnet", "no model 'resnet': choose one of notebook, report"),
        ("--dataset", "minst", "no dataset 'minst'.*did you mean mnist"),
        ("--device", "cuda:99", "this machine has no device 'cuda:99'.*--device cpu"),
        ("--device", "gpu", "no device 'gpu': use auto, cpu"),
        ("--learning-rate", "1e6", "learning_rate must be in"),
        ("--seed", "-99999999999999999999", "seed"),
        ("--null-share", "1", r"replace_rate must be in \[0, 1\)"),
        ("--null-share", "nan", r"replace_rate must be in \[0, 1\)"),
        ("--nulls", "noise", "the null source must be one of adversarial"),
        ("--nulls", "any-of", "needs at least one source"),
    ],
)
def test_bad_options_of_train(
    option: str, value: str, says: str, refused: Refused, data_dir: Path
) -> None:
    refused(*train_arguments(data_dir), option, value, says=says)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--robust", "interval", "--robust-eps", "0"], "training eps must be in"),
        (["--robust", "interval", "--robust-eps", "1.5"], "training eps must be in"),
        (["--robust", "abstain", "--nulls", "mixed"], "--robust takes no null images"),
        (["--robust", "adversarial", "--spread-null"], "--robust takes no null images"),
        (["--robust-eps", "0.1"], "are for --robust"),
        (["--null-class"], "are for --robust"),
    ],
)
def test_bad_options_of_robust_training(
    options: list[str], says: str, refused: Refused, data_dir: Path
) -> None:
    refused(*train_arguments(data_dir), *options, says=says)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--attack", "cw", "no attack 'cw': choose one of fgsm"),
        ("--norm", "l0", "norm must be one of linf, l2, l1, not 'l0'"),
        ("--smallest", "-1", "--smallest must not be negative"),
        ("--ood", "cats", "no source of images 'cats'"),
        ("--null-rate", "0", "rate"),
        ("--null-rate", "0.0001", "held-out"),
        ("--images", "0", "choose 1 to 40"),
        ("--images", "-3", "choose 1 to 40"),
        ("--images", "41", "choose 1 to 40"),
        ("--dataset", "cifar", "no dataset 'cifar'"),
        ("--device", "cuda:99", "this machine has no device"),
    ],
)
def test_bad_options_of_evaluate(
    option: str, value: str, says: str, refused: Refused, data_dir: Path, checkpoint: Path
) -> None:
    refused(*evaluate_arguments(checkpoint, data_dir), option, value, says=says)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: No such file"),
        ("", "no column|at least one size"),
        ("size,probability\n", "at least one size"),
        ("size,p\n0.1,1\n", "no column 'probability'.*size,probability"),
        ("size,probability\n0.1,one\n", "must hold numbers only"),
        ("size,probability\n0.1,0.5\n0.2,0.4\n", "fall with size"),
        ("size,probability\n0.2,0.5\n0.1,0.6\n", "must rise"),
        ("size,probability\n0.1,0.5\n0.2,1.1\n", r"outside \[0, 1\]"),
        ("size,probability\n0.1,-0.5\n", r"outside \[0, 1\]"),
        ("size,probability\n0.1,nan\n", r"outside \[0, 1\]"),
        ("size,probability\n30,1\n", "pixels are in"),
    ],
)
def test_curves_that_are_none(
    content: str | None, says: str, refused: Refused, data_dir: Path, tmp_path: Path
) -> None:
    table = tmp_path / "f.csv"
    if content is not None:
        table.write_text(content)
    arguments = [*train_arguments(data_dir), "--nulls", "null-probabilities"]
    refused(*arguments, "--curve", str(table), "--norm", "linf", says=says)
    assert not Path("out").exists()


def test_null_probabilities_without_what_they_need(
    refused: Refused, data_dir: Path, tmp_path: Path
) -> None:
    table = tmp_path / "f.csv"
    table.write_text("size,probability\n0.1,0.2\n0.2,1\n")
    arguments = [*train_arguments(data_dir), "--nulls", "null-probabilities"]
    refused(*arguments, says="need a curve: give --curve")
    arguments += ["--curve", str(table)]
    refused(*arguments, says="does not say how it tells sizes")
    refused(*arguments, "--norm", "linf", says="does not say what perturbs.*--perturbation")
    fgsm = [*arguments, "--norm", "linf", "--perturbation", "fgsm"]
    sparse = [*arguments, "--norm", "linf", "--perturbation", "sparse"]
    refused(*fgsm, "--norm", "l0", says="'fgsm' cannot be told a size in 'l0'")
    refused(*sparse, says="'sparse' cannot be told a size in 'linf'")
    refused(*fgsm, "--null-steps", "3", says="'fgsm' has no such settings")
    refused(*fgsm, "--null-share", "0.4", says="set null_weight instead of replace_rate")
    refused(*fgsm, "--null-fraction", "0", says="nulls_per_image must be above 0")
    refused(*fgsm, "--twins", "--spread-null", says="give one")
    refused(*train_arguments(data_dir), "--nulls", "none", "--twins", says="give --nulls too")
    refused(*train_arguments(data_dir), "--curve", str(table), says="are for --nulls null-prob")
    table.write_text("size,probability,norm\n0.1,1,l0\n")
    refused(*fgsm, says="tells sizes in l0, not in linf")


def test_images_of_no_class_have_no_twin_and_ones_own_data_are_no_background(
    refused: Refused, data_dir: Path
) -> None:
    arguments = train_arguments(data_dir)
    refused(*arguments, "--nulls", "uniform", "--twins", says="uniform images are of no class")
    refused(
        *arguments, "--nulls", "background", "--background", "cats", says="no background images"
    )


def test_curves_that_cannot_be_estimated(
    refused: Refused, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    curve = ["curve", str(checkpoint), "--data-dir", str(data_dir), "--out", "f.csv"]
    refused(*curve, says="a null curve needs")
    refused(*curve, "--perturbation", "sparse", says="cannot be told a size in 'linf'")
    refused(*curve, "--steps", "3", says="--steps is for pgd and sparse")
    refused("curve", str(tmp_path / "nothing"), "--out", "f.csv", says="there is no checkpoint")
    assert not Path("f.csv").exists()


def test_no_null_images_and_some_cannot_both_be_had(refused: Refused, data_dir: Path) -> None:
    refused(*train_arguments(data_dir), "--nulls", "none", "mixed", says="--nulls none alone")
    refused(
        *train_arguments(data_dir),
        "--nulls",
        "mixed",
        "noise",
        says="null source must be one of .* not 'noise'",
    )


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--sets", "a", "--sets 'a' is no list of numbers"),
        ("--sets", "1-2-3", "is no list of numbers"),
        ("--sets", "3-1", "is empty"),
        ("--sets", "", "is no list of numbers"),
        ("--sets", "-1", "is no list of numbers"),
        ("--sets", "1000000", "is no list of numbers"),
        ("--variants", "base,nonsense", "no variant 'nonsense': choose from base, uniform"),
        ("--variants", "", "no variant ''"),
        ("--workers", "0", "must be at least 1"),
        ("--threads", "0", "must be at least 1"),
        ("--address", "here:6379", "say --engine ray too"),
    ],
)
def test_bad_options_of_study(option: str, value: str, says: str, refused: Refused) -> None:
    refused("study", "ramps", "--out", "out", f"{option}={value}", says=says)


def test_unknown_names(refused: Refused, data_dir: Path) -> None:
    refused("study", "fgsm", says="no study 'fgsm': choose one of fgsm-null")
    refused("data", "cifar", says="no dataset 'cifar': choose one of mnist")
    refused("data", "idx", says="name it with data_dir|--data-dir")
    refused("study", "fgsm-null", "--device", "cuda:99", "--out", "out", says="no device")
    assert not Path("out").exists()


# Checkpoints


def test_bad_checkpoints(refused: Refused, data_dir: Path, checkpoint: Path) -> None:
    def refuse(says: str) -> None:
        refused(*evaluate_arguments(checkpoint, data_dir), says=says)

    weights, card = (checkpoint / WEIGHTS).read_bytes(), (checkpoint / CARD).read_text()

    def change(**changed: object) -> None:
        (checkpoint / CARD).write_text(json.dumps(json.loads(card) | changed))

    change(architecture="report")
    refuse("does not fit its card")
    change(num_classes=10)
    refuse("does not fit its card")
    change(architecture="resnet")
    refuse("names the model 'resnet'")
    change(data=None)
    refuse("does not say which data.*--dataset")
    (checkpoint / CARD).write_text(card[:50])
    refuse("cannot be read as the model card")
    (checkpoint / CARD).unlink()
    refuse("card.json is missing")
    (checkpoint / CARD).write_text(card)
    for keep in (0, 5, len(weights) // 2, -1):
        (checkpoint / WEIGHTS).write_bytes(weights[:keep])
        refuse("is damaged")
    (checkpoint / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    refuse("another SHA-256")
    shutil.rmtree(checkpoint)
    refuse("there is no checkpoint")


def test_a_checkpoint_is_not_overwritten(
    refused: Refused, data_dir: Path, checkpoint: Path
) -> None:
    refused(*train_arguments(data_dir, checkpoint), says="holds a checkpoint already")


# Where to write


def test_a_file_where_a_folder_is_needed(
    refused: Refused, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("not a folder")
    refused(*train_arguments(data_dir), says="cannot write to the folder out")
    refused(*train_arguments(data_dir, "out/deeper"), says="cannot write to the folder out/deeper")
    refused(*evaluate_arguments(checkpoint, data_dir), says="cannot write to the folder out")
    refused("study", "fgsm-null", "--out", "out", says="cannot write to the folder out")
    refused("report", "out", says="there is no run folder out")


def test_a_file_inside_the_run_folder(data_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "trials").write_text("not a folder")
    done = command(*evaluate_arguments(checkpoint, data_dir), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    check_sentence(done.stderr.splitlines()[-1], "holds trials, but no run.json")


def test_an_evaluation_leaves_what_is_not_its_own(
    refused: Refused, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "out" / "trials" / "x" / "rows.parquet"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    refused(*evaluate_arguments(checkpoint, data_dir), says="choose another --out")
    assert mine.read_text() == "mine"


def test_reports_of_nothing(refused: Refused, tmp_path: Path) -> None:
    refused("report", "nowhere", says="there is no run folder nowhere")
    (tmp_path / "empty").mkdir()
    refused("report", "empty", says=r"run\.json is missing")


def command(*arguments: object, cwd: Path, limit: int | None = None) -> subprocess.CompletedProcess:
    """A real process, on a disk that takes no file larger than a limit."""

    def full_disk() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "nullclass.cli.main", *map(str, arguments)],
        cwd=cwd,
        preexec_fn=full_disk,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.mark.parametrize("limit", [0, 50_000])
def test_a_full_disk_while_training(limit: int, data_dir: Path, tmp_path: Path) -> None:
    done = command(*train_arguments(data_dir), cwd=tmp_path, limit=limit)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    check_sentence(done.stderr.splitlines()[-1], "cannot write")
    left = [path.name for path in (tmp_path / "out").rglob("*")]
    assert CARD not in left, "no card vouches for what is not there"
    assert WEIGHTS not in left
    assert not any(name.startswith(".") for name in left), "no half-written file"
    # With room on the disk the same command goes through.
    assert command(*train_arguments(data_dir), cwd=tmp_path).returncode == 0


def test_a_full_disk_while_evaluating(checkpoint: Path, data_dir: Path, tmp_path: Path) -> None:
    done = command(*evaluate_arguments(checkpoint, data_dir), cwd=tmp_path, limit=100)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    check_sentence(done.stderr.splitlines()[-1], "cannot write")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_through_a_real_process(data_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    for arguments, says in (
        (["study", "nonsense"], "no study 'nonsense'"),
        ([*evaluate_arguments(checkpoint, data_dir), "--eps", "300"], "divide by 255"),
    ):
        done = command(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout == ""
        check_sentence(done.stderr, says)
