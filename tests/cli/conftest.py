from __future__ import annotations

from pathlib import Path

import pytest
from tiny import learnable_dataset


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset of four IDX files. Tests leave it as it is."""
    return learnable_dataset(tmp_path_factory.mktemp("data"))
