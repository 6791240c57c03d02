"""The tiny study on a Ray cluster of several local nodes, some of which die."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_study import is_alive, results, source_of

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


def loopback_and_other_sockets(pids: list[int]) -> tuple[int, list[str]]:
    """How many listening TCP sockets of the processes are on loopback, and the others."""
    inodes = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            inodes.add(os.readlink(file))
    num_loopback, others = 0, []
    loopback = ("0100007F", "0" * 16 + "FFFF00000100007F", "0" * 24 + "01000000")
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                if fields[1].split(":")[0] in loopback:
                    num_loopback += 1
                else:
                    others.append(fields[1])
    return num_loopback, others


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["close", "killed"])
def test_a_local_cluster_is_on_loopback_and_ends_with_its_parent(tmp_path: Path, ends: str) -> None:
    pytest.importorskip("ray")
    script = SCRIPT.with_name("ray_here.py")
    command = [sys.executable, str(script), str(tmp_path / "busy"), ends]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert pids, "it prints its processes"
        assert int((tmp_path / "busy").read_text()) in pids, "the one that does the task too"
        if ends == "killed":
            num_loopback, others = loopback_and_other_sockets(pids)
            assert num_loopback >= 4, "the driver, the control store, the raylet, a worker"
            assert others == []
            process.kill()
        process.wait()
        until = time.monotonic() + 15
        while alive := [pid for pid in pids if is_alive(pid)]:
            assert time.monotonic() < until, alive
            time.sleep(0.1)


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
