"""Runs in worker processes that are killed or have a full disk."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_study import CPU, NUM_JOBS, TINY, is_alive, results, run_here, source_of, trials

from nullclass.core.errors import UserError
from nullclass.data import Dataset
from nullclass.experiments.engines import make_engine
from nullclass.experiments.engines.base import Task
from nullclass.experiments.engines.local import LocalEngine
from nullclass.experiments.jobs import jobs_of
from nullclass.experiments.runner import plan_trials, run_study
from nullclass.results import schema, store
from nullclass.results.schema import SUMMARY

SCRIPT = Path(__file__).parents[1] / "support" / "sweep_me.py"


def start(data: Path, out: Path, num_workers: int = 2, **settings: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(data), str(out), str(num_workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,  # type: ignore[call-overload]
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=180)
    return process.returncode, errors


def children(parent: int) -> list[int]:
    """Process ids of the workers of a run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def wait_for(condition: Callable[[], bool], is_over: Callable[[], bool] = lambda: False) -> None:
    until = time.monotonic() + 60
    while not condition() and not is_over():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.005)


def recorded(out: Path) -> dict[Path, int]:
    """When each finished job was recorded."""
    paths = [path for path in out.rglob(schema.RESULT) if store.is_complete(path.parent)]
    return {path: path.stat().st_mtime_ns for path in paths}


def num_files(out: Path) -> int:
    return len(list(out.rglob("*")))


def leftovers(out: Path) -> list[Path]:
    return [path for path in out.rglob(".*") if path.name != ".lock"]


class KillingEngine(LocalEngine):
    """Kills its first worker in the middle of a job, and the next one while it is idle."""

    num_started = num_kills = 0

    def start(self, task: Task) -> None:
        self.num_started += 1
        if self.num_started == 3:
            self.kill([worker for worker in self._workers if worker.task is None])
        super().start(task)
        if self.num_started == 1:
            self.kill(self._workers)

    def kill(self, victims: list[Any]) -> None:
        for worker in victims:
            worker.process.kill()
            worker.process.wait()
            self.num_kills += 1


@pytest.mark.slow
def test_a_killed_worker_fails_its_own_job_only(
    data: Path,
    dataset: Dataset,
    finished: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    engine = KillingEngine(2, 1, source_of(data), "cpu")
    trials = plan_trials(TINY, "quick", [0], ["base"])
    result = run_study(TINY, dataset, tmp_path, engine=engine, device=CPU, trials=trials)
    assert (engine.num_started, engine.num_kills) == (4, 2)
    assert (result.num_done, result.failed) == (2, {})
    assert 50 < result.peak_mb < 2000, "a worker's memory"
    found = {path: content for path, content in results(tmp_path).items() if path != SUMMARY}
    assert len(found) == 4, "weights; rows, summary and thresholds of the trial"
    assert found.items() <= results(finished).items()
    lines = capfd.readouterr().err
    assert lines.count("its worker process was killed by signal 9; trying again") == 2


def test_workers_by_default_and_on_a_shared_gpu() -> None:
    source = source_of(Path("nowhere"))
    cores = len(os.sched_getaffinity(0))
    for device, settings, expected in (
        ("cpu", {}, (cores, 1)),
        ("cpu", {"num_workers": 1}, (1, cores)),
        ("cuda:0", {}, (1, cores)),
        ("cuda:0", {"num_workers": 8, "num_threads": 2}, (8, 2)),
    ):
        engine = make_engine("local", source, device=device, **settings)
        assert isinstance(engine, LocalEngine)
        assert (engine.num_workers, engine.num_threads) == expected
        assert engine.device == device, "every worker computes on the same device"
    with pytest.raises(UserError, match="engine must be one of local, ray"):
        make_engine("dask", source, device="cpu")


HANGS_ONCE = """
import ctypes, pathlib
from nullclass.experiments.engines import serial

run_task = serial.run_task


def hang(*args, **settings):
    marker = pathlib.Path({marker!r})
    if not marker.exists():
        marker.touch()
        ctypes.PyDLL(None).sleep(600)  # with Python's lock: no other thread can run
    run_task(*args, **settings)


serial.run_task = hang
"""


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_its_job_tried_again(
    data: Path,
    dataset: Dataset,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    planted, marker = tmp_path / "planted", tmp_path / "hung"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(HANGS_ONCE.format(marker=str(marker)))
    monkeypatch.setenv("PYTHONPATH", f"{planted}:{os.environ.get('PYTHONPATH', '')}")
    engine = LocalEngine(1, 1, source_of(data), "cpu", hang_seconds=20)
    out = tmp_path / "out"
    trials = plan_trials(TINY, "quick", [0], ["base"])
    result = run_study(TINY, dataset, out, engine=engine, device=CPU, trials=trials)
    assert marker.exists()
    assert (result.num_done, result.failed) == (2, {})
    found = {path: content for path, content in results(out).items() if path != SUMMARY}
    assert found.items() <= results(finished).items()
    lines = capfd.readouterr().err
    assert "its worker process hung and was ended after 20 s; trying again" in lines
    assert "serial.py" in lines, "the stack of the worker"


WATCHED = """
import sys, time
import torch
from nullclass.experiments.engines.watchdog import watchdog

model = torch.nn.Linear(1, 1)
works = {"model": lambda: model(torch.zeros(1, 1)), "report": lambda: report(None)}[sys.argv[1]]
with watchdog(lambda _: None, 1) as report:
    for _ in range(20):
        time.sleep(0.1)
        works()
time.sleep(1.5)  # outside there is no limit
with watchdog(lambda _: None, 1):
    while True:
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["model", "report"])
def test_a_worker_that_calls_models_or_reports_does_not_hang(sign: str) -> None:
    started = time.monotonic()
    command = [sys.executable, "-c", WATCHED, sign]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == -signal.SIGALRM, ended.stderr
    assert time.monotonic() - started > 2 + 1.5 + 1
    assert 'File "<string>", line 1' in ended.stderr, "where it hung"


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "num_kills"), [("worker", 5), ("parent", 3)])
def test_killed_at_random_moments(
    victim: str, num_kills: int, data: Path, dataset: Dataset, finished: Path, tmp_path: Path
) -> None:
    chance = random.Random(7 if victim == "worker" else 8)
    before: dict[Path, int] = {}
    process, kills = start(data, tmp_path), 0
    while True:
        if kills < num_kills:
            # A random moment after the next file is written.
            files = num_files(tmp_path)
            wait_for(
                lambda n=files: num_files(tmp_path) > n, lambda p=process: p.poll() is not None
            )
            time.sleep(chance.uniform(0, 0.4))
            workers = children(process.pid)
            victims = workers if victim == "worker" else [process.pid]
            if victims and process.poll() is None:
                os.kill(chance.choice(victims), signal.SIGKILL)
                kills += 1
                if victim == "parent":
                    process.wait()
                    wait_for(lambda pids=workers: not any(map(is_alive, pids)))
        if process.poll() is not None or kills == num_kills:
            status, errors = finish(process)
            now = recorded(tmp_path)
            assert {path: now[path] for path in before} == before, "nothing is done twice"
            before = now
            if status == 0:
                break
            assert victim == "parent" or status == 1, errors  # the same job killed three times
            process = start(data, tmp_path)
    assert results(tmp_path) == results(finished)
    assert not leftovers(tmp_path)
    assert run_here(dataset, tmp_path).num_skipped == NUM_JOBS
    assert recorded(tmp_path) == before


@pytest.mark.slow
def test_a_full_disk_stops_cleanly(
    data: Path, dataset: Dataset, finished: Path, tmp_path: Path
) -> None:
    for limit in (9_000, 150_000):
        status, errors = finish(
            start(
                data,
                tmp_path,
                num_workers=1,
                preexec_fn=lambda size=limit: resource.setrlimit(
                    resource.RLIMIT_FSIZE, (size, size)
                ),
            )
        )
        assert status == 2, errors
        last = errors.strip().splitlines()[-1]
        assert last.startswith("cannot write")
        assert "make room" in last
        assert "given up" not in errors
        assert not leftovers(tmp_path)
    assert not run_here(dataset, tmp_path).failed, "with room on the disk"
    assert results(tmp_path) == results(finished)


@pytest.mark.slow
def test_a_job_that_always_fails_is_given_up_and_the_rest_is_done(
    data: Path, dataset: Dataset, finished: Path, tmp_path: Path
) -> None:
    jobs = jobs_of(trials("quick", range(2), TINY.variants), dataset.checksum)
    bad = next(job for job in jobs if job.folder.startswith("models/base-seed1"))

    class OtherData(LocalEngine):
        """Every attempt at one job fails, since its data are others."""

        def start(self, task: Task) -> None:
            is_bad = task.job.folder == bad.folder
            super().start(replace(task, data_checksum="broken") if is_bad else task)

    engine = OtherData(2, 1, source_of(data), "cpu")
    result = run_study(TINY, dataset, tmp_path, engine=engine, device=CPU)
    assert "training base, seed 1: given up (" in str(result)
    assert len(result.failed) == 5, "with 4 jobs that need it"
    lost = results(finished).keys() - results(tmp_path).keys()
    assert {name.rsplit("-", 1)[0].split("-seed")[0] for name in lost} == {
        "models/base", "models/grown", "trials/base", "trials/grown", "trials/noisy"
    }  # fmt: skip
