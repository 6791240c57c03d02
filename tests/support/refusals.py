"""Runs commands that must be refused: one sentence, exit status 2, nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

Refused = Callable[..., None]


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def check_sentence(text: str, says: str) -> None:
    (line,) = text.splitlines()
    assert line.startswith("nullclass: ")
    assert "Traceback" not in line
    assert re.search(says, line), line
    assert len(line) < 500


def train_arguments(data_folder: Path, out: Path | str = "out") -> list[object]:
    return ["train", "--data", data_folder, "--out", out, "--validation", 9,
            "--epochs", 1, "--device", "cpu"]  # fmt: skip


def evaluate_arguments(checkpoint: Path | str, data_folder: Path) -> list[object]:
    return ["evaluate", checkpoint, "--data", data_folder, "--out", "out", "--images", 5,
            "--eps", 0.1, "--attack", "fgsm", "--device", "cpu"]  # fmt: skip
