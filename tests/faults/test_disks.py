"""Full, read-only and broken disks and outputs: one sentence, nothing lost, and no half results."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path

import pytest
from fault_cases import CASES, Case, problem_after, problem_at_last
from fault_counts import Counter
from fault_injection import (
    Ended,
    failing_at,
    is_one_sentence,
    read_trace,
    recording,
    run_forked,
    spread,
)
from fault_worlds import World, copy_of, file_names, remove, run_command

ERRORS = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT)


class Tried:
    """A case, its undisturbed result, and a folder that is as before it."""

    def __init__(self, case: Case, world: World, tmp_path: Path, folder: Path) -> None:
        self.case, self.folder, self.scratch = case, folder, tmp_path
        self.old_folder, self.old = tmp_path / "old", None
        self.words = case.words(world, folder)
        if case.before is not None:
            assert run_command(case.before(world, folder)) == 0
            self.old = case.read(folder)
            copy_of(folder, self.old_folder)
        trace = tmp_path / "trace"
        ended = self.run(recording(folder, trace))
        assert ended.status == 0, ended.err
        self.operations = [(n, what) for n, how, what in read_trace(trace) if how == "before"]
        self.new, self.names = case.read(folder), file_names(folder)

    def reset(self) -> None:
        copy_of(self.old_folder, self.folder)

    def run(self, prepare: Callable[[], None] | None = None) -> Ended:
        return run_forked(lambda: run_command(self.words), self.scratch, prepare=prepare)

    def problem(self, failed: Ended, repair: Callable[[], None] = lambda: None) -> str | None:
        """What is wrong with how the command failed, and how it ends on a good disk."""
        if failed.status == 0:
            problem = None if "Traceback" not in failed.err else failed.err[-300:]
        else:
            problem = None if failed.is_one_sentence else f"{failed.status}: {failed.err[-300:]}"
        allowed = self.names | (file_names(self.old_folder) if self.old is not None else set())
        problem = problem or problem_after(self.case, self.folder, self.old, self.new, allowed)
        if problem is None:
            repair()
            problem = problem_at_last(self.case, self.run(), self.folder, self.new, self.names)
        return problem


@pytest.mark.parametrize("name", CASES)
def test_errors_at_operations(name: str, world: World, tmp_path: Path, counter: Counter) -> None:
    """A disk that is full, read-only or broken from some operation on, or once."""
    tried = Tried(CASES[name], world, tmp_path, tmp_path / "out")
    num = 15 if name == "evaluate over another" else 6
    for index, (number, operation) in enumerate(spread(tried.operations, num)):
        error = ERRORS[index % len(ERRORS)]
        tried.reset()
        failing = failing_at(tried.folder, number, error, forever=index % 3 != 2)
        problem = tried.problem(tried.run(failing))
        where = operation.replace(str(tried.folder), "")
        counter.add(f"{name}: {errno.errorcode[error]} at {number} ({where})", problem)
    counter.check(at_least=5)


def test_files_over_a_limit(world: World, tmp_path: Path, counter: Counter) -> None:
    """As a quota: the system itself refuses what the writers of Parquet and safetensors write."""
    for name in ("evaluate over another", "train", "certify over another"):
        scratch = tmp_path / name.replace(" ", "-")
        scratch.mkdir()
        tried = Tried(CASES[name], world, scratch, scratch / "out")
        for size in (1024, 3000, 8192, 20000):
            tried.reset()
            limit = (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
            ended = tried.run(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))  # noqa: B023
            counter.add(f"{name}: files of {size} bytes", tried.problem(ended))
    counter.check(at_least=10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    if subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("name", ["evaluate", "evaluate over another", "train"])
def test_a_small_disk(
    name: str, world: World, tmp_path: Path, small_disk: Path, counter: Counter
) -> None:
    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", small_disk], check=True)

    tried = Tried(CASES[name], world, tmp_path, small_disk / "out")
    filler = small_disk / "filler"
    for pages in (0, 1, 3, 8, 16, 30):
        tried.reset()
        used = sum(4096 * -(-path.stat().st_size // 4096) for path in _files(tried.folder))
        remount(f"size={used + 4096 * (pages + 1)}")
        filler.write_bytes(bytes(4096))
        problem = tried.problem(tried.run(), lambda: remount("size=64m"))
        counter.add(f"{name}: {pages} pages left", problem)
        remount("size=64m")
        remove(filler)
    tried.reset()
    remount("ro")
    ended = tried.run()
    problem = "it worked before it refused" if "fgsm:" in ended.err else None
    problem = problem or tried.problem(ended, lambda: remount("rw"))
    counter.add(f"{name}: read-only", problem)
    remount("rw")
    counter.check(at_least=7)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# Standard output


def _closed() -> None:
    os.close(1)
    sys.stdout = None  # as Python starts without it


def _full() -> None:
    _write_to(os.open("/dev/full", os.O_WRONLY))


def _ascii() -> None:
    _write_to(os.dup(1), "ascii")


def _unread() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    _write_to(writing)


def _write_to(handle: int, encoding: str = "utf-8") -> None:
    os.dup2(handle, 1)
    sys.stdout = TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding=encoding)


OUTPUTS = {"closed": _closed, "full": _full, "ASCII": _ascii, "unread": _unread}


@pytest.mark.parametrize("name", CASES)
def test_outputs_that_cannot_be_written(
    name: str, world: World, tmp_path: Path, counter: Counter
) -> None:
    """They cost what is printed, not the result."""
    tried = Tried(CASES[name], world, tmp_path, tmp_path / "out")
    for kind, prepare in OUTPUTS.items():
        tried.reset()
        ended = tried.run(prepare)
        problem = None
        if "Traceback" in ended.err or (ended.status and kind == "ASCII"):
            problem = f"status {ended.status}: {ended.err[-300:]}"
        elif tried.case.read(tried.folder) != tried.new:
            problem = "the result is not saved"
        elif file_names(tried.folder) != tried.names:
            problem = f"other files: {sorted(file_names(tried.folder) ^ tried.names)}"
        counter.add(f"{name}, {kind}", problem)
    counter.check(at_least=4)


def test_outputs_of_a_fresh_process(world: World, tmp_path: Path, counter: Counter) -> None:
    """Python itself writes the rest of the output at the very end."""
    case = CASES["certify"]
    expected = tmp_path / "expected"
    assert run_command(case.words(world, expected)) == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = f'"{sys.executable}" -m nullclass.cli.main "$@"'
    for name, command in {
        "full": f"{program} > /dev/full",
        "closed": f"{program} >&-",
        "ASCII": f"PYTHONIOENCODING=ascii {program}",
        "unread": f"{program} | true",
    }.items():
        folder = tmp_path / name
        done = subprocess.run(
            ["sh", "-c", command, "sh", *case.words(world, folder)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )
        problem = None
        lines = done.stderr.splitlines(keepends=True)
        said = "".join(line for line in lines if not line.startswith("proofs: "))  # progress
        if "Traceback" in done.stderr or "Exception ignored" in done.stderr:
            problem = done.stderr[-400:]
        elif said and not is_one_sentence(said):
            problem = f"said {said[-400:]}"
        elif case.read(folder) != case.read(expected):
            problem = "the result is not saved"
        counter.add(f"certify in a process, {name}", problem)
    counter.check(at_least=4)
