"""The same trials on a Ray cluster of several local nodes, some of which die."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import learnable_dataset
from tiny_study import TINY, load, results, source_of

from nullclass.core.errors import UserError
from nullclass.experiments.engines.here import SerialEngine
from nullclass.experiments.engines.ray_cluster import RayCluster
from nullclass.experiments.runner import run_study

SCRIPT = Path(__file__).parents[1] / "support" / "ray_sweep_me.py"


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'nullclass\[ray\]'"):
        RayCluster(1, 1, source_of(Path("nowhere")), "cpu", None)


def test_no_cluster_at_the_address() -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        RayCluster(1, 1, source_of(Path("nowhere")), "cpu", "127.0.0.1:1")


def test_nodes_killed_five_times_change_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    data, alone = learnable_dataset(tmp_path / "data"), tmp_path / "alone"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dataset, device = load(data), torch.device("cpu")
        run_study(TINY, dataset, alone, engine=SerialEngine(dataset, device), device=device)
    finally:
        torch.set_num_threads(threads)
    out = tmp_path / "out"
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(data), str(out), "5"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "killed" in ended.stdout
    assert results(out) == results(alone)
