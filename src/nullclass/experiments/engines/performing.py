"""A task performed in this process, whichever engine brought it here."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from nullclass.core.errors import CannotWriteError, UserError
from nullclass.data import Dataset, load_dataset
from nullclass.experiments.engines.base import DataSource, Done, Event, Failed, Progress, Task, Tell
from nullclass.experiments.tasks import do

_PATIENCE = 0.5
"""Seconds between two tellings of progress."""


@lru_cache(maxsize=1)
def load(source: DataSource) -> Dataset:
    """The data of a run, loaded once a process."""
    return load_dataset(
        source.name,
        data_dir=None if source.data_dir is None else Path(source.data_dir),
        validation=source.validation,
        progress=lambda line: print(line, file=sys.stderr),
    )


def perform(
    task: Task, get_dataset: Callable[[], Dataset], device: torch.device, tell: Tell
) -> None:
    """Do a task; whatever goes wrong with it is told, not raised.

    Args:
        task: What to do.
        get_dataset: Gives the data.
        device: Where to compute.
        tell: Told of progress and of the end.
    """
    told_at, unknown = time.monotonic(), 0.0

    def advance(share: float) -> None:
        nonlocal told_at, unknown
        unknown += share
        if time.monotonic() - told_at >= _PATIENCE:
            tell(Progress(task.places, unknown))
            told_at, unknown = time.monotonic(), 0.0

    tell(_end(task, get_dataset, device, advance))


def _end(
    task: Task,
    get_dataset: Callable[[], Dataset],
    device: torch.device,
    advance: Callable[[float], None],
) -> Event:
    try:
        dataset = get_dataset()
        if dataset.checksum != task.data_checksum:
            raise UserError(
                f"the worker's {dataset.name} is not the data of this run (another checksum): give "
                "all workers the same --data-dir"
            )
        for config in task.configs:
            do(config, task.run_folder, dataset, device=device, advance=advance)
    except CannotWriteError as error:
        return Failed(task.places, str(error), is_hopeless=True)
    except UserError as error:
        return Failed(task.places, str(error))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return Failed(task.places, f"{type(error).__name__}: {error}")
    return Done(task.places, {"peak_mb": peak_memory_mb()})


def peak_memory_mb() -> float | None:
    """The most memory this process ever held, in MB, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return round(int(peaks[0]) / 1024, 1) if peaks else None
