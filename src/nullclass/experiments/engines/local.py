"""Worker processes on this machine, one job at a time each.

A worker that crashes, hangs or is killed fails its own job only: every worker has its own pipe, so
that no lock is shared that a killed worker could hold. A worker ends when its parent ends.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection

from nullclass.core.process import trim_memory, tune_process
from nullclass.core.progress import duration
from nullclass.experiments.engines.base import DataSource, Failed, Progress, Report, Task
from nullclass.experiments.engines.watchdog import HANG_SECONDS, HANG_SIGNAL, watchdog


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: connection.Connection
    task: Task | None = None


class LocalEngine:
    """An engine of worker processes.

    Args:
        num_workers: Number of workers.
        num_threads: Threads per worker.
        source: The run's data.
        device: Device that every worker computes on; several may share a GPU.
        hang_seconds: After so many seconds without a sign of work a worker is ended
            (:mod:`nullclass.experiments.engines.watchdog`).
    """

    def __init__(
        self,
        num_workers: int,
        num_threads: int,
        source: DataSource,
        device: str,
        hang_seconds: int = HANG_SECONDS,
    ) -> None:
        self.num_workers = num_workers
        self.num_threads = num_threads
        self.source = source
        self.device = device
        self.hang_seconds = hang_seconds
        self._workers: list[_Worker] = []

    def has_room(self) -> bool:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        return sum(worker.task is not None for worker in self._workers) < self.num_workers

    def start(self, task: Task) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        idle = [worker for worker in self._workers if worker.task is None]
        worker = idle[0] if idle else self._spawn()
        worker.task = task
        with suppress(OSError):  # the worker is dead: wait() reaps it
            worker.pipe.send(task)

    def wait(self, report: Report) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        workers = {worker.pipe: worker for worker in self._workers}
        for pipe in connection.wait(list(workers), timeout=0.5):
            assert isinstance(pipe, connection.Connection)
            worker = workers[pipe]
            try:
                event = pipe.recv()
            except (EOFError, OSError):
                self._reap(worker, report)
                continue
            if not isinstance(event, Progress):
                worker.task = None
            report(event)

    def close(self) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()
            worker.pipe.close()
        self._workers.clear()

    def _spawn(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": str(self.num_threads)},
            start_new_session=True,  # Ctrl-C is for the parent
        )
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        ours.send((self.source, self.device, self.num_threads, self.hang_seconds))
        return worker

    def _reap(self, worker: _Worker, report: Report) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        status = worker.process.wait()
        if worker.task is not None:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            if status == -HANG_SIGNAL:
                how = f"hung and was ended after {duration(self.hang_seconds)}"
            report(Failed(worker.task.job.folder, f"its worker process {how}"))


def work(pipe: connection.Connection) -> None:
    """Run the tasks that arrive on a pipe until it ends."""
    os.dup2(2, 1)  # the parent's standard output is for results
    tune_process()
    source, device, num_threads, hang_seconds = pipe.recv()
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                tasks.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone: stop in the middle of a task

    threading.Thread(target=listen, daemon=True).start()

    import torch

    from nullclass.experiments.engines.serial import execute

    torch.set_num_threads(num_threads)
    while True:
        task = tasks.get()
        with watchdog(pipe.send, hang_seconds) as report:
            execute(task, source, torch.device(device), report)
        trim_memory()


if __name__ == "__main__":
    work(connection.Connection(int(sys.argv[1])))
