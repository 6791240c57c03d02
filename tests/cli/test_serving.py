"""``nullclass export`` and ``nullclass guard``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from refusals import Refused

from nullclass import load_dataset, save_checkpoint
from nullclass.cli import guard as guard_module
from nullclass.cli.main import main
from nullclass.models import build_model
from nullclass.training.card import Origin


@pytest.fixture
def with_null(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small", image_shape=(1, 8, 8), num_classes=3)
    save_checkpoint(model, tmp_path / "null", origin=Origin(data="letters"))
    return tmp_path / "null"


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_a_graph_is_exported_and_compared(
    with_null: Path,
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    num = len(load_dataset(str(data_folder), validation=0).test)
    options = ["--data", str(data_folder), "--format", "torch-export"]
    assert main(["export", str(with_null), *options]) == 0
    printed = capsys.readouterr().out
    assert f"{num} of {num} labels" in printed
    assert "null.pt2" in printed
    assert (tmp_path / "null.pt2").is_file()


def test_the_guard_answers_line_by_line(
    with_null: Path,
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.rand(2, 1, 8, 8).tolist()
    words = [
        json.dumps({"id": 7, "images": images}).encode(),
        b"",
        b"not JSON",
        json.dumps({"id": "x", "images": [[[2.0]]]}).encode(),
        json.dumps({"id": None}).encode(),
        b"x" * 2000 + b"\n" + json.dumps({"images": images[0]}).encode(),
    ]
    monkeypatch.setattr(guard_module, "MAX_LINE", 3000)
    stream = io.TextIOWrapper(io.BytesIO(b"\n".join([*words, b"[" * 5000, words[0]])))
    monkeypatch.setattr(sys, "stdin", stream)
    log = tmp_path / "guard.jsonl"
    options = ["--data", str(data_folder), "--log", str(log), "--device", "cpu"]
    assert main(["guard", str(with_null), *options]) == 0
    printed = capsys.readouterr()
    found = lines_of(printed.out)
    assert [line["id"] for line in found] == [7, None, "x", None, None, None, None, 7]
    assert ["answers" in line for line in found] == [True, *[False] * 4, True, False, True]
    assert {*found[0]["answers"][0]} == {"label", "reason", "null_score", "name"}  # type: ignore[index]
    assert found[2]["error"]["kind"] == "shape"  # type: ignore[index]
    assert len(found[0]["answers"]) == 2  # type: ignore[arg-type]
    counters = json.loads(printed.err.splitlines()[-1])
    assert (counters["images"], counters["invalid"]) == (5, {"json": 4, "shape": 1})
    events = [line["event"] for line in lines_of(log.read_text())]
    assert (events.count("answers"), events.count("invalid")) == (3, 5)


def test_what_cannot_be_done_is_refused(
    refused: Refused, checkpoint: Path, data_folder: Path
) -> None:
    data = ("--data", data_folder)
    refused("guard", checkpoint, *data, says="never answers null")
    refused("guard", checkpoint, *data, "--calibrate", 0, says="--calibrate")
    refused("export", checkpoint, *data, "--images", 0, says="--images")
    refused("export", checkpoint, *data, "--images", 10**6, says="choose 1 to")
    refused("export", checkpoint, *data, "--null-rate", 0.1, says="held-out")
    refused("export", "no-such", says="no checkpoint")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_does_not_end_the_guard() -> None:
    from nullclass.cli.guard import _log

    with _log(Path("/dev/full")) as log:
        log.write("a line\n")  # written when the file is closed, which fails
