"""Tiny models and data, faults, and a line per suite: how many were tried and handled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_counts import FAULTS, Counter
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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print tried and handled per suite; the properties of reports come from xdist's workers."""
    counts: dict[str, list[int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            for key, (suite, tried, handled) in report.user_properties:
                if key == FAULTS:
                    total = counts.setdefault(suite, [0, 0])
                    total[0], total[1] = total[0] + tried, total[1] + handled
    for suite, (tried, handled) in sorted(counts.items()):
        terminalreporter.write_line(f"{suite}: tried {tried}, handled {handled}")
