from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from few_resamples import few_resamples
from refusals import Refused, check_sentence, files_of
from tiny import learnable_dataset

from nullclass import save_checkpoint
from nullclass.cli.main import main
from nullclass.models import build_model
from nullclass.training.card import Origin


@pytest.fixture(autouse=True)
def quick_intervals() -> Iterator[None]:
    with few_resamples():
        yield


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset of four IDX files. Tests leave it as it is."""
    return learnable_dataset(tmp_path_factory.mktemp("data") / "letters")


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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the tiny data: good enough to be refused."""
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small", image_shape=(1, 8, 8), num_classes=3, has_null=False)
    save_checkpoint(model, folder, origin=Origin(data="letters"))
    return folder
