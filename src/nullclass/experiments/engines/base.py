"""What an engine is: something that does a sweep's tasks, one or several at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nullclass.experiments.config import Config


@dataclass(frozen=True)
class DataSource:
    """How a worker comes to the data of a run."""

    name: str
    """As for :func:`nullclass.data.load_dataset`."""
    data_dir: str | None
    """Likewise."""
    validation: int
    """Likewise."""


@dataclass(frozen=True)
class Task:
    """What one worker is given to do at a time."""

    configs: tuple[Config, ...]
    """One of any kind; or several trainings, to train together in one process."""
    places: tuple[str, ...]
    """Their folders, from the run folder, in the same order."""
    run_folder: Path
    data_checksum: str
    """What the data must be."""


@dataclass(frozen=True)
class Progress:
    """More of a task is done."""

    places: tuple[str, ...]
    share: float
    """Of the whole task, since it was last told."""


@dataclass(frozen=True)
class Done:
    """A task is done and recorded."""

    places: tuple[str, ...]
    told: dict[str, Any]
    """What the worker tells of itself: ``peak_mb``, the most memory it ever held, in MB."""


@dataclass(frozen=True)
class Failed:
    """A task came to nothing."""

    places: tuple[str, ...]
    reason: str
    """In a sentence."""
    is_hopeless: bool = False
    """Whether every other task would fail likewise: the disk is full."""


Event = Progress | Done | Failed
Tell = Callable[[Event], None]


class Engine(Protocol):
    """Does tasks. It never retries: that is the sweep's business."""

    def has_room(self) -> bool:
        """Whether another task can be started now."""
        ...

    def start(self, task: Task) -> None:
        """Take on a task."""
        ...

    def wait(self, tell: Tell) -> None:
        """Work or wait for a moment, and tell what has happened."""
        ...

    def close(self) -> None:
        """Stop whatever is still running."""
        ...
