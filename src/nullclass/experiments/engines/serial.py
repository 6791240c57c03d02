"""Runs tasks in the current process: what every worker does, and an engine without workers."""

from __future__ import annotations

import sys
import time
import traceback
from functools import lru_cache
from pathlib import Path

import torch

from nullclass.core.errors import CannotWriteError, UserError
from nullclass.data import Dataset, load_dataset
from nullclass.experiments.engines.base import DataSource, Done, Failed, Progress, Report, Task
from nullclass.experiments.tasks import run_task

REPORT_SECONDS = 0.5
"""Seconds between two progress reports."""


class SerialEngine:
    """An engine that does jobs one after another, for notebooks, tests and debuggers.

    Args:
        dataset: The run's data.
        device: Device to compute on.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.dataset = dataset
        self.device = device
        self._task: Task | None = None

    def has_room(self) -> bool:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        return self._task is None

    def start(self, task: Task) -> None:
        """See :class:`nullclass.experiments.engines.base.Engine`."""
        self._task = task

    def wait(self, report: Report) -> None:
        """Do the job that was started."""
        task, self._task = self._task, None
        if task is not None:
            execute(task, self.dataset, self.device, report)

    def close(self) -> None:
        """Do nothing: no job outlives :meth:`wait`."""


@lru_cache(maxsize=1)
def load(source: DataSource) -> Dataset:
    """Return the data of a run, loaded once per process."""
    return load_dataset(source.data, validation=source.validation)


def execute(task: Task, data: DataSource | Dataset, device: torch.device, report: Report) -> None:
    """Run a task and report its progress and its end. Raises nothing.

    Args:
        task: The task.
        data: The run's data, or where to load them.
        device: Device to compute on.
        report: Receives the events.
    """
    folder, share, reported_at = task.job.folder, 0.0, time.monotonic()

    def advance(step: float) -> None:
        nonlocal share, reported_at
        share += step
        if time.monotonic() - reported_at >= REPORT_SECONDS:
            report(Progress(folder, min(share, 1.0)))
            reported_at = time.monotonic()

    try:
        dataset = load(data) if isinstance(data, DataSource) else data
        if dataset.checksum != task.data_checksum:
            raise UserError(
                f"the worker's {dataset.name} is not the data of this run (the checksums differ): "
                "give all workers the same --data"
            )
        run_task(task.job.config, task.run_folder, dataset, device=device, advance=advance)
    except UserError as error:
        report(Failed(folder, str(error), is_fatal=isinstance(error, CannotWriteError)))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        report(Failed(folder, f"{type(error).__name__}: {error}"))
    else:
        report(Done(folder, peak_memory_mb()))


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process in MB; 0 where the system does not report it.

    Not ``ru_maxrss``, which a process inherits from its parent.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((round(int(x.split()[1]) / 1024, 1) for x in lines if x.startswith("VmHWM:")), 0.0)
