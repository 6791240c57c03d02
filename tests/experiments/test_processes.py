"""Sweeps in worker processes that are killed, starved and fought over."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import learnable_dataset
from tiny_study import TINY, load, results

from nullclass.core.errors import UserError
from nullclass.core.files import read_json
from nullclass.experiments.engines.here import SerialEngine
from nullclass.experiments.jobs import jobs_of
from nullclass.experiments.runner import locked, run_study
from nullclass.results import schema, store

SCRIPT = Path(__file__).parents[1] / "support" / "sweep_me.py"
NUM_JOBS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learnable_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run in this process writes."""
    out = tmp_path_factory.mktemp("undisturbed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dataset, device = load(data), torch.device("cpu")
        run_study(TINY, dataset, out, engine=SerialEngine(dataset, device), device=device)
    finally:
        torch.set_num_threads(threads)
    return results(out)


def start(data: Path, out: Path, **settings: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(data), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,  # type: ignore[call-overload]
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def children(parent: int) -> list[int]:
    """Process ids of the workers of a sweep."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def finished(out: Path) -> dict[Path, int]:
    """When each whole job was recorded."""
    found = {}
    for path in out.rglob(schema.RESULT):
        if store.is_complete(path.parent):
            found[path] = path.stat().st_mtime_ns
    return found


def wait_for(condition: object, process: subprocess.Popen[str], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition() and process.poll() is None:  # type: ignore[operator]
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.005)


def test_an_undisturbed_sweep_is_what_one_process_does(
    data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    status, errors = finish(start(data, tmp_path))
    assert status == 0, errors
    assert f"({NUM_JOBS} of {NUM_JOBS})" in errors
    assert len(undisturbed) == 4 * 2 + 4 * 2 + 2 + 1, "weights, rows, summaries, thresholds"
    assert results(tmp_path) == undisturbed
    before = finished(tmp_path)
    status, errors = finish(start(data, tmp_path))
    assert status == 0
    assert f"{NUM_JOBS} of {NUM_JOBS} jobs are recorded already" in errors
    assert finished(tmp_path) == before
    told = read_json(tmp_path / schema.RUN, "run")
    assert 50 < told["peak_mb"] < 1000, "a worker's memory"


@pytest.mark.parametrize("victim", ["worker", "parent"])
def test_killed_five_times_at_random_moments(
    victim: str, data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    chance = random.Random(7 if victim == "worker" else 8)
    recorded: dict[Path, int] = {}
    process, kills = start(data, tmp_path), 0
    while True:
        if kills < 5:
            # A moment in the life of a sweep: some file is written, then a little later.
            files = len(list(tmp_path.rglob("*")))
            wait_for(lambda files=files: len(list(tmp_path.rglob("*"))) > files, process)
            time.sleep(chance.uniform(0, 0.4))
            victims = children(process.pid) if victim == "worker" else [process.pid]
            if victims and process.poll() is None:
                orphans = children(process.pid)
                os.kill(chance.choice(victims), signal.SIGKILL)
                kills += 1
                if victim == "parent":
                    process.wait()
                    wait_for(lambda pids=orphans: not any(map(is_alive, pids)), never_ends())
        if process.poll() is not None or kills == 5:
            status, errors = finish(process)
            now = finished(tmp_path)
            assert {p: now[p] for p in recorded} == recorded, "nothing is done twice"
            recorded = now
            if status == 0:
                break
            assert victim == "parent" or status == 1, errors  # the same job killed three times
            process = start(data, tmp_path)
    assert results(tmp_path) == undisturbed
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"], "no leftovers"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def never_ends() -> subprocess.Popen[str]:
    """Something whose ``poll`` is None: ourselves."""

    class Endless:
        def poll(self) -> None:
            return None

    return Endless()  # type: ignore[return-value]


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "no result", "bad result"])
def test_a_damaged_folder_is_found_and_done_again(
    harm: str, data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    dataset, device = load(data), torch.device("cpu")

    def run() -> int:
        engine = SerialEngine(dataset, device)
        return run_study(TINY, dataset, tmp_path, engine=engine, device=device).num_done

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert run() == NUM_JOBS
        jobs = jobs_of(TINY.trials("quick", range(2), TINY.variants), dataset.checksum)
        trial = next(job for job in jobs if job.place.startswith("trials/noisy-seed1"))
        training = next(job for job in jobs if job.place.startswith("models/base-seed0"))
        targets = [tmp_path / trial.place / schema.ROWS]
        targets.append(tmp_path / training.place / "test" / "model.safetensors")
        for target in targets:
            result = next(p for p in target.parents if (p / schema.RESULT).exists())
            if harm == "cut":
                target.write_bytes(target.read_bytes()[:-7])
            elif harm == "changed":
                target.write_bytes(bytes([target.read_bytes()[0] ^ 1]) + target.read_bytes()[1:])
            elif harm == "gone":
                target.unlink()
            elif harm == "no result":
                (result / schema.RESULT).unlink()
            else:
                (result / schema.RESULT).write_text('{"files": ')
        assert run() == 2, "those two, and nothing else"
    finally:
        torch.set_num_threads(threads)
    assert results(tmp_path) == undisturbed


def test_two_parents_on_one_folder(data: Path, tmp_path: Path) -> None:
    with locked(tmp_path):
        status, errors = finish(start(data, tmp_path))
    assert status == 2
    assert errors.strip().splitlines()[-1].startswith("another process is running a study in")
    with locked(tmp_path), pytest.raises(UserError, match="another process"), locked(tmp_path):
        pass
    assert not (tmp_path / schema.RUN).exists(), "the second wrote nothing"


@pytest.mark.parametrize("limit", [9_000, 150_000])
def test_a_full_disk_stops_cleanly(
    limit: int, data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    status, errors = finish(start(data, tmp_path, preexec_fn=full_disk))
    assert status == 2, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("cannot write")
    assert "make room" in last
    assert "given up" not in errors
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]
    status, errors = finish(start(data, tmp_path))  # there is room again
    assert status == 0, errors
    assert results(tmp_path) == undisturbed


def test_a_job_that_always_fails_is_given_up_and_the_rest_is_done(
    data: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    dataset = load(data)
    jobs = jobs_of(TINY.trials("quick", range(2), TINY.variants), dataset.checksum)
    bad = next(job for job in jobs if job.place.startswith("models/base-seed1"))
    # A folder where the training's state should be: every attempt fails.
    (tmp_path / bad.place / schema.STATE).mkdir(parents=True)
    status, errors = finish(start(data, tmp_path))
    assert status == 1
    assert errors.count("training base, seed 1: ") == 3, "two more attempts, then the end"
    assert "given up after 3 attempts, and with it 2 jobs that need it" in errors
    done = results(tmp_path)
    lost = {name for name in undisturbed if name not in done} - {schema.SUMMARY}
    assert {name.split("/")[1].rsplit("-", 1)[0] for name in lost} == {"base-seed1", "noisy-seed1"}
    assert all(not name.startswith("models/noisy") for name in lost)
