"""What several test files need: real data, small trained models, and quiet generators."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))
os.environ.setdefault("MPLBACKEND", "Agg")

from fault_counts import FAULTS
from worlds import Digits, train_digits

from nullclass.data import Dataset, load_dataset

# The same examples every time; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    """Real MNIST, nothing held out: from the cache, or fetched once."""
    return load_dataset("mnist", validation=0)


@pytest.fixture(scope="session")
def digits() -> Digits:
    """scikit-learn's 8x8 digits with a K-class and a null-class model, trained in seconds."""
    return train_digits()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


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
