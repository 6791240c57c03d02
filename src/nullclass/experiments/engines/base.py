"""What an engine is: it does the jobs of a run, one or several at a time. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nullclass.experiments.jobs import Job


@dataclass(frozen=True)
class DataSource:
    """Arguments of :func:`nullclass.data.load_dataset`, for a worker to load a run's data."""

    data: str
    validation: int


@dataclass(frozen=True)
class Task:
    """A job, with the run it belongs to."""

    job: Job
    run_folder: Path
    data_checksum: str
    """Checksum of the run's data, compared with the worker's."""


@dataclass(frozen=True)
class Progress:
    """Part of a job is done."""

    folder: str
    """Folder of the job."""
    share: float
    """In [0, 1], since its start."""


@dataclass(frozen=True)
class Done:
    """A job is finished."""

    folder: str
    peak_mb: float
    """Peak memory of the worker so far, in MB; 0 where the system does not report it."""


@dataclass(frozen=True)
class Failed:
    """A job failed."""

    folder: str
    reason: str
    """One sentence."""
    is_fatal: bool = False
    """Whether every other job would fail too, because the disk is full."""


Event = Progress | Done | Failed
Report = Callable[[Event], None]


class Engine(Protocol):
    """Does jobs. It never retries: the runner does."""

    def has_room(self) -> bool:
        """Return whether another job can start now."""
        ...

    def start(self, task: Task) -> None:
        """Start a job."""
        ...

    def wait(self, report: Report) -> None:
        """Work or wait for at most about half a second, and report events."""
        ...

    def close(self) -> None:
        """Stop all running jobs."""
        ...
