"""Faults at chosen file operations, in forked processes: death, disk errors, delays.

An audit hook sees every file operation of a process just before it happens, and may end the
process, raise an error or wait. Writers in other languages (Parquet, safetensors) and ``fsync``
are wrapped, since Python does not report them.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow.parquet
import safetensors.numpy
import safetensors.torch

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
"""Audit events of operations that change a folder; ``open`` is one if it is for writing."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

KILLED = 9
"""Status of a process that was ended at an operation."""


@dataclass(frozen=True)
class Ended:
    """How a forked process ended."""

    status: int
    """Exit status; negative for a signal."""
    out: str
    err: str

    @property
    def is_one_sentence(self) -> bool:
        """Whether it refused with status 2 and one short line."""
        return self.status == 2 and is_one_sentence(self.err)


def is_one_sentence(errors: str) -> bool:
    """Whether the errors are one line of the command line, without traceback."""
    lines = [line for line in errors.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("nullclass: ")]
    return "Traceback" not in errors and len(said) == 1 and len(said[0]) <= 620


class Running:
    """A forked process that runs a function and exits with its result."""

    def __init__(
        self,
        action: Callable[[], int],
        scratch: Path,
        *,
        prepare: Callable[[], None] | None = None,
        stdout: int | None = None,
    ) -> None:
        self.out, self.err = (scratch / f"{name}-{time.monotonic_ns()}" for name in ("out", "err"))
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                self._redirect(stdout)
                if prepare is not None:
                    prepare()
                status = action()
                if sys.stdout is not None:
                    with suppress(OSError):  # as the command line left it
                        sys.stdout.flush()
            except SystemExit as stopped:
                status = stopped.code if isinstance(stopped.code, int) else 71
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)

    def _redirect(self, stdout: int | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(self.out, flags) if stdout is None else stdout, 1)
        os.dup2(os.open(self.err, flags), 2)
        sys.stdout = TextIOWrapper(
            os.fdopen(1, "wb", closefd=False), encoding="utf-8", write_through=False
        )
        sys.stderr = TextIOWrapper(
            os.fdopen(2, "wb", closefd=False), encoding="utf-8", write_through=True
        )

    def end(self, seconds: float = 60) -> Ended:
        """Wait; a process that takes longer is killed, and its status is -9."""
        deadline = time.monotonic() + seconds
        pause = 0.001
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        texts = []
        for path in (self.out, self.err):
            texts.append(path.read_text(errors="replace") if path.exists() else "")
            path.unlink(missing_ok=True)
        return Ended(os.waitstatus_to_exitcode(status), *texts)


def run_forked(action: Callable[[], int], scratch: Path, **settings: Any) -> Ended:
    """Run a function in a forked process and wait for its end."""
    seconds = settings.pop("seconds", 60)
    return Running(action, scratch, **settings).end(seconds)


# Operations


@dataclass(frozen=True)
class Operation:
    """A file operation that is about to happen, or just happened."""

    event: str
    path: str
    target: str = ""
    """New name of a rename."""

    @property
    def variants(self) -> tuple[str, ...]:
        """Ways to die at it: before it, with an empty new file, with half of the content."""
        if self.event == "open" and not os.path.isdir(self.path):  # else a file without a name
            return ("before", "empty")
        if self.event == "os.rename":
            return ("before", "half") if os.path.isfile(self.path) else ("before",)
        return ("before",)


def hook_operations(folder: Path, on_operation: Callable[[Operation], None]) -> None:
    """Call a function before every file operation below a folder, for the rest of the process."""
    top = os.path.realpath(folder)
    is_active = [True]

    def see(event: str, path: Any, target: Any = "", *, has_folder: bool = False) -> None:
        if not is_active[0] or isinstance(path, int):
            return
        name = os.fsdecode(path)
        # A name relative to an open folder comes from the removal of a tree.
        if not has_folder and not os.path.abspath(name).startswith(top):
            return
        is_active[0] = False  # the function may use files
        try:
            on_operation(Operation(event, name, os.fsdecode(target)))
        finally:
            is_active[0] = True

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & WRITING and path is not None:
                see(event, path)
        elif event in CHANGES:
            folders = [arg for arg in args[1:] if isinstance(arg, int)]
            has_folder = event in ("os.remove", "os.rmdir") and folders[-1] >= 0
            target = args[1] if event in ("os.rename", "os.link") else ""
            see(event, args[0], target, has_folder=has_folder)

    real_fsync = os.fsync

    def fsync(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        path = os.readlink(f"/proc/self/fd/{number}")
        see("fsync", path)
        real_fsync(handle)

    os.fsync = fsync

    def wrapped(module: Any, name: str, index: int) -> None:
        real = getattr(module, name)

        def write(*args: Any, **keywords: Any) -> Any:
            target = args[index] if len(args) > index else keywords["filename"]
            if not isinstance(target, str | os.PathLike):
                return real(*args, **keywords)
            see("open", target)
            result = real(*args, **keywords)
            see("written", target)
            return result

        setattr(module, name, write)

    wrapped(pyarrow.parquet, "write_table", 1)
    wrapped(safetensors.torch, "serialize_file", 1)
    wrapped(safetensors.numpy, "serialize_file", 1)
    sys.addaudithook(audit)


def recording(folder: Path, trace: Path) -> Callable[[], None]:
    """Return what makes a process record its operations in a file; see :func:`read_trace`."""

    def prepare() -> None:
        file = trace.open("w", encoding="utf-8")

        def on_operation(operation: Operation) -> None:
            line = [operation.event, operation.path, operation.target, operation.variants]
            file.write(json.dumps(line) + "\n")
            file.flush()

        hook_operations(folder, on_operation)

    return prepare


def read_trace(trace: Path) -> list[tuple[int, str, str]]:
    """Return number, way to die and description of every fault of a recorded process."""
    points = []
    for number, line in enumerate(trace.read_text(encoding="utf-8").splitlines()):
        event, path, target, variants = json.loads(line)
        text = f"{event} {path} {target}".strip()
        points += [(number, variant, text) for variant in variants]
    return points


def dying_at(folder: Path, number: int, variant: str) -> Callable[[], None]:
    """Return what makes a process end at an operation, as SIGKILL or a power cut would."""
    count = iter(range(10**9))

    def on_operation(operation: Operation) -> None:
        if next(count) != number:
            return
        if variant == "empty":
            os.close(os.open(operation.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644))
        elif variant == "half":
            os.truncate(operation.path, os.stat(operation.path).st_size // 2)
        os._exit(KILLED)

    return lambda: hook_operations(folder, on_operation)


def failing_at(folder: Path, number: int, error: int, *, forever: bool) -> Callable[[], None]:
    """Return what makes an operation of a process fail, and all later ones if ``forever``."""
    count = iter(range(10**9))

    def on_operation(operation: Operation) -> None:
        now = next(count)
        # A full or read-only disk still allows removing (a full one) or closing.
        is_removal = operation.event in ("os.remove", "os.rmdir")
        if (now == number or (forever and now > number)) and not is_removal:
            raise OSError(error, os.strerror(error), operation.path)

    return lambda: hook_operations(folder, on_operation)


def slowed(folder: Path, seconds: float) -> Callable[[], None]:
    """Return what makes a process wait before every rename."""

    def on_operation(operation: Operation) -> None:
        if operation.event == "os.rename":
            time.sleep(seconds)

    return lambda: hook_operations(folder, on_operation)


def spread(points: Sequence[Any], num: int) -> list[Any]:
    """Return at most ``num`` of the points, evenly spread, the first and last among them."""
    if len(points) <= num:
        return list(points)
    return [points[round(i * (len(points) - 1) / (num - 1))] for i in range(num)]


# Folders


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Return the content of every file below a folder, and the target or kind of what is none."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = path.relative_to(folder).as_posix()
        if stat.S_ISLNK(mode):
            found[name] = f"link to {os.readlink(path)}"
        elif stat.S_ISREG(mode):
            found[name] = path.read_bytes()
        else:
            found[name] = f"kind {stat.S_IFMT(mode):o}"
    return found


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Assert that nothing below a folder changes inside the block."""
    before = snapshot(folder)
    yield
    assert snapshot(folder) == before, f"{folder} was changed"
