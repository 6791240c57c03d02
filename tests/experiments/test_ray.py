"""The tiny study on a Ray cluster of several local nodes, some of which die."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_study import results, source_of

from nullclass.core.errors import UserError
from nullclass.experiments.engines.ray_cluster import RayEngine

SCRIPT = Path(__file__).parents[1] / "support" / "ray_sweep_me.py"


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'nullclass\[ray\]'"):
        RayEngine(1, 1, source_of(Path("nowhere")), "cpu", None)


@pytest.mark.slow
def test_no_cluster_at_the_address() -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        RayEngine(1, 1, source_of(Path("nowhere")), "cpu", "127.0.0.1:1")


@pytest.mark.slow
def test_nodes_killed_five_times_change_nothing(data: Path, finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(data), str(tmp_path / "out"), "5"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "killed" in ended.stdout
    assert results(tmp_path / "out") == results(finished)
