from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from few_resamples import few_resamples
from tiny import learnable_dataset
from tiny_study import NUM_JOBS, load, run_here

from nullclass.data import Dataset


@pytest.fixture(autouse=True)
def quick_intervals() -> Iterator[None]:
    with few_resamples():
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learnable_dataset(tmp_path_factory.mktemp("data") / "letters")


@pytest.fixture(scope="session")
def dataset(data: Path) -> Dataset:
    return load(data)


@pytest.fixture(scope="session")
def finished(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of the tiny study in this process. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    with few_resamples():
        result = run_here(dataset, folder)
    assert (result.num_done, result.num_skipped, result.failed) == (NUM_JOBS, 0, {})
    return folder
