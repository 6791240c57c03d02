"""Every mistake gets one clear sentence and exit status 2, and nothing is written."""

from __future__ import annotations

import gzip
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from edited import edit_document
from idx_files import write_dataset
from tiny import learnable_arrays

from nullclass import save_checkpoint
from nullclass.cli.main import main
from nullclass.data import FILE_NAMES
from nullclass.models import build_model
from nullclass.training.card import CARD, Origin
from nullclass.training.checkpoint import WEIGHTS

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILE_NAMES
Refused = Callable[..., None]


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Run the command line in an empty folder and check how it refuses."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, says: str) -> None:
        before = files_of(tmp_path)
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert status == 2, printed
        assert printed.out == ""
        check_sentence(printed.err, says)
        assert files_of(tmp_path) == before, "nothing written, nothing half-written"

    return run


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def check_sentence(text: str, says: str) -> None:
    (line,) = text.splitlines()
    assert line.startswith("nullclass: ")
    assert "Traceback" not in line
    assert re.search(says, line), line
    assert len(line) < 500


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the tiny data: good enough to be refused."""
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small", image_shape=(1, 8, 8), num_classes=3)
    save_checkpoint(model, folder, origin=Origin(data="idx"))
    return folder


def train_arguments(data_dir: Path, out: Path | str = "out") -> list[object]:
    return ["train", "--dataset", "idx", "--data-dir", data_dir, "--out", out, "--validation", 9,
            "--epochs", 1, "--device", "cpu"]  # fmt: skip


def evaluate_arguments(checkpoint: Path | str, data_dir: Path) -> list[object]:
    return ["evaluate", checkpoint, "--data-dir", data_dir, "--out", "out", "--images", 5,
            "--eps", 0.1, "--attack", "fgsm", "--device", "cpu"]  # fmt: skip


# Data


def rewrite(data_dir: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (data_dir / name).write_bytes(change((data_dir / name).read_bytes()))


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def break_gzip(data_dir: Path) -> None:
    content = gzip.compress((data_dir / TRAIN_IMAGES).read_bytes())
    (data_dir / f"{TRAIN_IMAGES}.gz").write_bytes(content[:-30])
    (data_dir / TRAIN_IMAGES).unlink()


BAD_DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such folder": (shutil.rmtree, "is not a folder"),
    "a file missing": (lambda d: (d / TEST_LABELS).unlink(), f"lacks {TEST_LABELS}"),
    "truncated": (lambda d: rewrite(d, TRAIN_IMAGES, lambda b: b[:-1]), "is truncated"),
    "mixed up": (lambda d: swap(d / TRAIN_LABELS, d / TEST_LABELS), "160 images but .* 40 labels"),
    "broken gzip": (break_gzip, "broken gzip file"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data(
    kind: str, refused: Refused, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    damage, says = BAD_DATA[kind]
    bad = Path(shutil.copytree(data_dir, tmp_path / "bad"))
    damage(bad)
    refused("data", "idx", "--data-dir", bad, says=says)
    refused(*train_arguments(bad), says=says)
    refused(*evaluate_arguments(checkpoint, bad), says=says)
    if "lacks" in says or "is not a folder" in says:
        refused("study", "fgsm-null", "--data-dir", bad, "--out", "out", says=says)


def relabelled(last: int) -> dict[str, np.ndarray]:
    """Labels outside the model's classes, in the last test image."""
    arrays = learnable_arrays()
    arrays[TEST_LABELS] = arrays[TEST_LABELS].copy()
    arrays[TEST_LABELS][-1] = last
    return arrays


def reshaped(change: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    arrays = learnable_arrays()
    return arrays | {name: change(arrays[name]) for name in (TRAIN_IMAGES, TEST_IMAGES)}


def test_data_that_do_not_fit(
    refused: Refused, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    for last in (9, 200):
        folder = write_dataset(tmp_path / f"labels{last}", relabelled(last))
        refused(*evaluate_arguments(checkpoint, folder), says=f"labels .* {last}")
    tall = write_dataset(tmp_path / "tall", reshaped(lambda images: np.repeat(images, 2, axis=1)))
    refused(*evaluate_arguments(checkpoint, tall), says=r"takes images of \(1, 8, 8\)")
    small = write_dataset(tmp_path / "small", reshaped(lambda images: images[:, :4, :4]))
    refused(*train_arguments(small), says="too small")
    arrays = learnable_arrays()
    one = arrays | {name: arrays[name] * 0 for name in (TRAIN_LABELS, TEST_LABELS)}
    refused(*train_arguments(write_dataset(tmp_path / "one", one)), says="at least two classes")
    for command in (
        ["data", "mnist", "--data-dir", data_dir],
        ["train", "--out", "out", "--data-dir", data_dir],
        ["study", "fgsm-null", "--data-dir", data_dir, "--out", "out"],
    ):
        refused(*command, says="MNIST|checksum")


# Options


SEEDS = ("-1", str(2**63), str(2**64))


def test_seeds_out_of_range(refused: Refused, data_dir: Path, checkpoint: Path) -> None:
    data = ["--data-dir", data_dir]
    for seed in SEEDS:
        for command in (
            evaluate_arguments(checkpoint, data_dir),
            train_arguments(data_dir),
            ["curve", checkpoint, "--out", "f.csv", *data],
            ["substitute", checkpoint, "--out", "out", *data],
            ["transfer", "--sources", checkpoint, "--targets", checkpoint, *data],
            ["zoo", "evaluate", "notebook-null", "--out", "out", *data],
        ):
            refused(*command, f"--seed={seed}", says=f"seed must be a whole number .* not {seed}")


TRAIN: list[tuple[Sequence[str], str]] = [
    (["--null-eps", "39"], "eps"),
    (["--null-steps", "0"], "step"),
    (["--null-weight", "-1"], "null_weight must be at least 0"),
    (["--epochs", "0"], "of at least 1"),
    (["--validation", "160"], "cannot hold out 160 of 160"),
    (["--model", "resnet"], "'resnet'.*notebook|notebook.*'resnet'"),
    (["--dataset", "minst"], "'minst'.*did you mean mnist"),
    (["--device", "cuda:99"], "this machine has no device 'cuda:99': use the device cpu"),
    (["--device", "gpu"], "'gpu'"),
    (["--learning-rate", "1e6"], "learning_rate must be in"),
    (["--replace-rate", "nan"], "replace_rate must be a finite number"),
    (["--nulls", "noise"], "null source must be one of adversarial.*'noise'"),
    (["--nulls", "any-of"], "needs at least one source"),
    (["--nulls", "none", "mixed"], "--nulls none alone"),
    (["--nulls", "none", "--per-class-null"], "need null images"),
    (["--per-class-null", "--uniform-targets"], "exclude each other"),
    (["--nulls", "uniform", "--per-class-null"], "uniform images have no class"),
    (["--nulls", "background", "--background", "cats"], "background images"),
    (["--nulls", "null-probabilities"], "need a curve: give --curve"),
    (["--curve", "f.csv"], "are for --nulls null-probabilities"),
    (["--robust", "interval", "--robust-eps", "1.5"], "eps"),
    (["--robust", "abstain", "--nulls", "mixed"], "--robust takes no null images"),
    (["--robust-eps", "0.1"], "are for --robust"),
    (["--null-class"], "are for --robust"),
]


@pytest.mark.parametrize(("options", "says"), TRAIN, ids=lambda value: "".join(value))
def test_bad_options_of_train(
    options: Sequence[str], says: str, refused: Refused, data_dir: Path
) -> None:
    refused(*train_arguments(data_dir), *options, says=says)
    assert not Path("out").exists()


EVALUATE = [
    ("--attack", "cw", "'cw'"),
    ("--norm", "l0", "norm must be one of linf, l2, l1, not 'l0'"),
    ("--smallest", "-1", "--smallest must be a whole number of at least 0"),
    ("--ood", "cats", "'cats'"),
    ("--null-rate", "0", "rate"),
    ("--null-rate", "0.0001", "held-out"),
    ("--images", "0", "1 to 40"),
    ("--images", "41", "1 to 40"),
    ("--dataset", "cifar", "'cifar'"),
    ("--device", "cuda:99", "this machine has no device"),
    ("--proofs", "guess", "'guess'"),
    *(("--eps", eps, r"eps .* outside \[0, 1\]") for eps in ("-0.1", "76", "nan")),
]


@pytest.mark.parametrize(("option", "value", "says"), EVALUATE)
def test_bad_options_of_evaluate(
    option: str, value: str, says: str, refused: Refused, data_dir: Path, checkpoint: Path
) -> None:
    refused(*evaluate_arguments(checkpoint, data_dir), option, value, says=says)
    assert not Path("out").exists()


STUDY = [
    *(("--sets", text, "is no list of numbers") for text in ("a", "1-2-3", ",", "-1", "1000000")),
    ("--sets", "", "--sets has no value"),
    ("--sets", "0-999999", "names 1,000,000 seeds, more than the 10,000"),
    ("--sets", "3-1", "is empty"),
    ("--variants", "base,nonsense", "no variant 'nonsense': choose from base, uniform"),
    ("--variants", ",", "no variant ''"),
    ("--workers", "0", "--workers must be a whole number from 1 to 4096"),
    ("--threads", "0", "--threads must be a whole number from 1 to 4096"),
    ("--address", "here:6379", "add --engine ray"),
    ("--device", "cuda:99", "no device"),
]


@pytest.mark.parametrize(("option", "value", "says"), STUDY)
def test_bad_options_of_study(option: str, value: str, says: str, refused: Refused) -> None:
    refused("study", "ramps", "--out", "out", f"{option}={value}", says=says)


def test_unknown_names(refused: Refused, data_dir: Path, checkpoint: Path) -> None:
    refused("study", "fgsm", says="no study 'fgsm': choose one of fgsm-null")
    refused("nosuch", says="no command 'nosuch': choose one of data, train")
    refused("data", "cifar", says="'cifar'.*mnist")
    refused("data", "idx", says="--data-dir|data_dir")
    refused(
        *evaluate_arguments("nowhere", data_dir),
        says="no checkpoint 'nowhere': give a folder .*, or a model of the zoo .*notebook-null",
    )
    certify = ["certify", checkpoint, "--data-dir", data_dir, "--device", "cpu"]
    refused(*certify, "--out", "c.json", says="give --radius with --out")
    refused(*certify, "--verifier", "guess", says="'guess'")
    refused("transfer", "--sources", "--targets", checkpoint, says="at least one checkpoint each")
    refused("report", "nowhere", says="there is no run folder nowhere")


# Curves


def test_options_of_curves(
    refused: Refused, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    table = tmp_path / "f.csv"
    refused(*train_arguments(data_dir), "--nulls", "null-probabilities", "--curve", table,
            "--norm", "linf", says="is missing")  # fmt: skip
    table.write_text("size,probability\n0.1,0.2\n0.2,1\n")
    arguments = [*train_arguments(data_dir), "--nulls", "null-probabilities", "--curve", table]
    refused(*arguments, says="does not give the norm of its sizes")
    refused(*arguments, "--norm", "linf", says="names no perturbation: give --perturbation")
    fgsm = [*arguments, "--norm", "linf", "--perturbation", "fgsm"]
    sparse = [*arguments, "--norm", "linf", "--perturbation", "sparse"]
    refused(*fgsm, "--norm", "l0", says="does not support l0")
    refused(*sparse, says="does not support linf")
    refused(*fgsm, "--null-steps", "3", says="'fgsm' has no such settings")
    refused(*fgsm, "--replace-rate", "0.4", says="set null_weight instead of replace_rate")
    refused(*fgsm, "--nulls-per-image", "0", says="nulls_per_image must be above 0")
    table.write_text("size,probability,norm\n0.1,1,l0\n")
    refused(*fgsm, says="l0, not .*linf")
    curve = ["curve", checkpoint, "--data-dir", data_dir, "--out", "g.csv"]
    refused(*curve, says="a null curve needs")
    refused(*curve, "--perturbation", "sparse", says="does not support linf")
    refused(*curve, "--steps", "3", says="--steps is for pgd and sparse")
    refused(*curve, "--images", "0", says="--images must be a whole number")


# Checkpoints and output folders


def test_bad_checkpoints(
    refused: Refused, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    bad = Path(shutil.copytree(checkpoint, tmp_path / "bad"))

    def refuse(says: str) -> None:
        refused(*evaluate_arguments(bad, data_dir), says=says)

    weights, card = (bad / WEIGHTS).read_bytes(), (bad / CARD).read_text()

    def change(**changed: object) -> None:
        (bad / CARD).write_text(card)
        edit_document(bad / CARD, **changed)

    change(architecture="report")
    refuse("does not fit its card")
    change(num_classes=10)
    refuse("does not fit its card")
    change(architecture="resnet")
    refuse("'resnet'")
    change(origin={})
    refuse("--dataset")
    (bad / CARD).write_text(card[:50])
    refuse("is damaged or of another version")
    (bad / CARD).unlink()
    refuse("card.json is missing")
    (bad / CARD).write_text(card)
    for keep in (0, 5, len(weights) // 2, -1):
        (bad / WEIGHTS).write_bytes(weights[:keep])
        refuse("is damaged")
    (bad / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    refuse("another SHA-256")
    refused(*train_arguments(data_dir, bad), says="holds a checkpoint already")
    (bad / CARD).unlink()
    refused(*train_arguments(data_dir, bad), says="holds 'model.safetensors', which is of no unf")


def test_output_folders_of_something_else(
    refused: Refused, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.write_text("not a folder")
    refused(*train_arguments(data_dir), says="cannot write out")
    refused(*train_arguments(data_dir, "out/deeper"), says="cannot write out/deeper")
    refused(*evaluate_arguments(checkpoint, data_dir), says="cannot write out")
    refused("study", "fgsm-null", "--out", "out", says="cannot write out")
    refused("report", "out", says="there is no run folder out")
    out.unlink()
    out.mkdir()
    refused("report", "out", says=r"run\.json is missing")
    (out / "trials").mkdir()
    (out / "trials" / "mine").write_text("mine")
    refused(*evaluate_arguments(checkpoint, data_dir), says="holds trials but no run.json")


# A real process


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


def test_through_a_real_process(tmp_path: Path) -> None:
    done = command("study", "fgsm", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    check_sentence(done.stderr, "no study 'fgsm'")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 50_000])
def test_a_full_disk(limit: int, data_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    train, evaluate = train_arguments(data_dir), evaluate_arguments(checkpoint, data_dir)
    for arguments in (train, evaluate) if limit == 0 else (train,):
        done = command(*arguments, cwd=tmp_path, limit=limit)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        check_sentence(done.stderr.splitlines()[-1], "cannot write")
        left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert {CARD, WEIGHTS}.isdisjoint(left), "no card vouches for what is not there"
        assert not any(name.startswith(".") for name in left), "no half-written file"
    # With room on the disk the same command succeeds.
    assert command(*train, cwd=tmp_path).returncode == 0
