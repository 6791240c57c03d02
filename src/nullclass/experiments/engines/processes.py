"""Worker processes on this machine, one task each at a time; a dead worker costs its own task."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from typing import IO

from nullclass.experiments.engines.base import DataSource, Failed, Progress, Task, Tell
from nullclass.experiments.engines.messages import from_line, to_line


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    task: Task | None = None
    unread: bytes = field(default=b"", repr=False)

    def send(self, task: Task) -> None:
        self.task = task
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(to_line(task).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it is dead, which its silent output will tell


class Processes:
    """An engine of worker processes.

    Args:
        num_workers: How many.
        num_threads: Threads of each.
        source: How they come to the data.
        device: Where they compute.
    """

    def __init__(self, num_workers: int, num_threads: int, source: DataSource, device: str) -> None:
        self.num_workers = num_workers
        self.num_threads = num_threads
        self.source = source
        self.device = device
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def has_room(self) -> bool:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        return sum(worker.task is not None for worker in self._workers) < self.num_workers

    def start(self, task: Task) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        idle = [worker for worker in self._workers if worker.task is None]
        (idle[0] if idle else self._spawn()).send(task)

    def wait(self, tell: Tell) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        for key, _ in self._selector.select(timeout=0.5):
            worker: _Worker = key.data
            received = os.read(key.fd, 1 << 16)
            if not received:
                self._reap(worker, tell)
                continue
            *lines, worker.unread = (worker.unread + received).split(b"\n")
            for line in lines:
                event = from_line(line.decode())
                assert not isinstance(event, Task)
                if not isinstance(event, Progress):
                    worker.task = None
                tell(event)

    def close(self) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()
            worker.errors.close()
        self._workers.clear()
        self._selector.close()

    def _spawn(self) -> _Worker:
        command = [sys.executable, "-m", "nullclass.experiments.engines.worker"]
        command += ["--data", json.dumps(asdict(self.source)), "--device", self.device]
        command += ["--threads", str(self.num_threads)]
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"OMP_NUM_THREADS": str(self.num_threads)},
            start_new_session=True,  # Ctrl-C is the parent's to deal with
        )
        worker = _Worker(process, errors)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker

    def _reap(self, worker: _Worker, tell: Tell) -> None:
        assert worker.process.stdout is not None
        self._selector.unregister(worker.process.stdout)
        self._workers.remove(worker)
        status = worker.process.wait()
        worker.errors.seek(0)
        said = worker.errors.read().decode(errors="replace").strip().splitlines()
        worker.errors.close()
        if worker.task is None:
            return
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        last = f" ({said[-1].strip()})" if said else ""
        tell(Failed(worker.task.places, f"its worker process {how}{last}"))
