"""Tiny models and data, faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fault_counts import Counter
from fault_worlds import World, make_world, stub_page, use_small_study, warm_up
from few_resamples import few_resamples

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these are slow; the slowest come first, so that no worker waits for them alone."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: "test_kills" not in item.path.stem)


@pytest.fixture
def counter(request: pytest.FixtureRequest) -> Counter:
    suite = request.path.stem.removeprefix("test_").replace("_", " ")
    return Counter(suite, request.node.user_properties)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Models, data and quick commands to try faults on."""
    with pytest.MonkeyPatch.context() as patch, few_resamples():
        make_quick(patch)
        world = make_world(tmp_path_factory.mktemp("world"))
        warm_up(world)
    return world


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pages have one figure and no tables, intervals few resamples, processes one thread."""
    make_quick(monkeypatch)
    with few_resamples():
        yield


def make_quick(patch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)  # a forked process has no other threads
    patch.setattr("nullclass.report.evaluation_page.page", stub_page)
    patch.setattr("nullclass.report.evaluation_page.summary_tables", lambda run: [])
    patch.setattr("nullclass.report.render.render", lambda page: page.subtitle)
    patch.setattr("nullclass.scoring.parts.MIN_SECONDS", 0.0)  # every step is kept
    use_small_study(patch)
