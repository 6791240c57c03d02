"""Every mistake gets one clear sentence and exit status 2, and nothing is written."""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edited import edit_document
from idx_files import write_dataset
from refusals import Refused, check_sentence, evaluate_arguments, train_arguments
from tiny import learnable_arrays

from nullclass.data import FILE_NAMES
from nullclass.training.card import CARD
from nullclass.training.checkpoint import WEIGHTS

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILE_NAMES

# Data


def rewrite(data_folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (data_folder / name).write_bytes(change((data_folder / name).read_bytes()))


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def break_gzip(data_folder: Path) -> None:
    content = gzip.compress((data_folder / TRAIN_IMAGES).read_bytes())
    (data_folder / f"{TRAIN_IMAGES}.gz").write_bytes(content[:-30])
    (data_folder / TRAIN_IMAGES).unlink()


BAD_DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such folder": (shutil.rmtree, "there is no dataset, folder or file"),
    "a file missing": (lambda d: (d / TEST_LABELS).unlink(), f"lacks {TEST_LABELS}"),
    "truncated": (lambda d: rewrite(d, TRAIN_IMAGES, lambda b: b[:-1]), "is truncated"),
    "mixed up": (lambda d: swap(d / TRAIN_LABELS, d / TEST_LABELS), "160 images but .* 40 labels"),
    "broken gzip": (break_gzip, "broken gzip file"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data(
    kind: str, refused: Refused, data_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    damage, says = BAD_DATA[kind]
    bad = Path(shutil.copytree(data_folder, tmp_path / "bad"))
    damage(bad)
    refused("data", "show", bad, says=says)
    refused(*train_arguments(bad), says=says)
    refused(*evaluate_arguments(checkpoint, bad), says=says)
    if "lacks" in says or "there is no" in says:
        refused("study", "fgsm-null", "--data", bad, "--out", "out", says=says)


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
    refused: Refused, data_folder: Path, checkpoint: Path, tmp_path: Path
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
    study = ["study", "fgsm-null", "--data", data_folder, "--out", "out"]
    refused(*study, says="the study fgsm-null uses mnist, not letters")
    train = ["train", "--out", "out", "--data", data_folder]
    refused(*train, says="held out of 160 training images")


# Checkpoints and output folders


def test_bad_checkpoints(
    refused: Refused, data_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    bad = Path(shutil.copytree(checkpoint, tmp_path / "bad"))

    def refuse(says: str) -> None:
        refused(*evaluate_arguments(bad, data_folder), says=says)

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
    evaluate = ["evaluate", bad, "--out", "out", "--device", "cpu"]
    for origin, says in (
        ({}, "the card does not name the model's data: pass --data"),
        ({"data": "letters"}, "was trained on 'letters': pass its place by --data"),
        ({"data": "ramps", "data_checksum": "0" * 64}, "on other data named ramps .*000…"),
    ):
        change(origin=origin)
        refused(*evaluate, says=says)
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
    refused(*train_arguments(data_folder, bad), says="holds a checkpoint already")
    (bad / CARD).unlink()
    refused(*train_arguments(data_folder, bad), says="holds 'model.safetensors', which is of no")


def test_output_folders_of_something_else(
    refused: Refused, data_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.write_text("not a folder")
    refused(*train_arguments(data_folder), says="cannot write out")
    refused(*train_arguments(data_folder, "out/deeper"), says="cannot write out/deeper")
    refused(*evaluate_arguments(checkpoint, data_folder), says="cannot write out")
    refused("study", "fgsm-null", "--out", "out", says="cannot write out")
    refused("report", "out", says="there is no run folder out")
    out.unlink()
    out.mkdir()
    refused("report", "out", says=r"is no run folder, since it has no run\.json")
    (out / "trials").mkdir()
    (out / "trials" / "mine").write_text("mine")
    refused(*evaluate_arguments(checkpoint, data_folder), says="holds 'trials' but no run.json")


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
def test_a_full_disk(limit: int, data_folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    train, evaluate = train_arguments(data_folder), evaluate_arguments(checkpoint, data_folder)
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


def test_options_and_names_without_a_meaning(
    refused: Refused, checkpoint: Path, data_folder: Path
) -> None:
    data = ["--data", data_folder]
    for option, value in (("eps", 0.7), ("radius", 0.3), ("images", 9), ("norm", "l2")):
        refused("certify", checkpoint, *data, "--check", "c.json", f"--{option}", value,
                says=f"--{option} has no effect with --check")  # fmt: skip
    refused("data", "fetch", says="name a dataset to fetch: mnist")
    refused("data", "fetch", "ramps", says=r"there is no dataset 'ramps' to fetch: choose .*svhn$")
    refused("data", "show", data_folder, "--out", "sheet.npz", says="--out must end in .png")
