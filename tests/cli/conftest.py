from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from few_resamples import few_resamples
from tiny import learnable_dataset


@pytest.fixture(autouse=True)
def quick_intervals() -> Iterator[None]:
    with few_resamples():
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset of four IDX files. Tests leave it as it is."""
    return learnable_dataset(tmp_path_factory.mktemp("data"))
