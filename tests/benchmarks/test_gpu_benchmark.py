"""The GPU benchmark in small, on the CPU: every item of every part has a result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_item_has_a_result(tmp_path: Path) -> None:
    command = [sys.executable, GPU, "--device", "cpu", "--tiny"]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", tmp_path], check=True, env=environ)

    parts = json.loads((tmp_path / "results-gpu.json").read_text())["parts"]
    assert list(parts) == ["checks", "training", "worst-case", "certified"]
    states = {name: row["state"] for items in parts.values() for name, row in items.items()}
    assert len(states) > 100
    assert {name: state for name, state in states.items() if state != "ok"} == {}
