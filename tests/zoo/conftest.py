"""A tiny zoo, built and evaluated once; tests that change something get a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from few_resamples import few_resamples
from tiny_zoo import TinyZoo, make_zoo

from nullclass.cli.main import main


@pytest.fixture(autouse=True)
def quick_intervals() -> Iterator[None]:
    with few_resamples():
        yield


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> TinyZoo:
    """Both members attacked on 30 images and verified on all 40; not to be changed."""
    zoo = make_zoo(tmp_path_factory.mktemp("zoo"))
    arguments = ["--images", "30", "--attack", "pgd", "--out", str(zoo.out), "--update"]
    arguments += ["--data", str(zoo.data_folder), "--device", "cpu", "--no-checks"]
    with few_resamples():
        assert main(["zoo", "--zoo", str(zoo.folder), "evaluate", "all", *arguments]) == 0
    return zoo


@pytest.fixture
def zoo(evaluated: TinyZoo, tmp_path: Path) -> TinyZoo:
    """A copy that may be changed."""
    shutil.copytree(evaluated.folder, tmp_path / "zoo")
    return replace(evaluated, folder=tmp_path / "zoo", out=tmp_path / "out")
