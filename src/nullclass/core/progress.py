"""What is running and how long it will take: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[float], None]
"""Told how many more of a stage's units are done."""


class _Bars:
    """Bars on standard error while the block lasts, with lines above them.

    Args:
        columns: What each bar shows.
        settings: Others of :class:`rich.progress.Progress`.
    """

    def __init__(self, *columns: ProgressColumn, **settings: Any) -> None:
        self.console = Console(stderr=True)
        is_hidden = not self.console.is_terminal
        self._bars = Progress(*columns, console=self.console, disable=is_hidden, **settings)
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)


class Stages(_Bars):
    """A job of several stages, each with an expected cost, shown as one bar over another.

    Args:
        title: What the whole job is called.
        cost: Expected cost of all its stages, in any one unit.
    """

    def __init__(self, title: str, cost: float) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            speed_estimate_period=120,
        )
        self._whole: TaskID = self._bars.add_task(f"[bold]{title}", total=cost)
        self._cost, self._done = cost, 0.0

    @contextmanager
    def stage(self, name: str, *, units: float, cost: float) -> Iterator[Advance]:
        """Show one stage.

        Args:
            name: What is running.
            units: How many units :data:`Advance` will be told in all.
            cost: The stage's share of the job's cost.
        """
        task = self._bars.add_task(name, total=units)
        started, told = time.perf_counter(), 0.0

        def advance(done: float) -> None:
            nonlocal told
            step = min(done, units - told)
            told += step
            self._bars.advance(task, done)
            self._bars.advance(self._whole, cost * step / units)

        yield advance
        self._bars.advance(self._whole, cost * (units - told) / units)
        self._bars.remove_task(task)
        self._done += cost
        seconds, passed = time.perf_counter() - started, time.perf_counter() - self._started
        left = passed / self._done * (self._cost - self._done)
        later = f", about {left:.0f} s left" if left > 1 else ""
        self.say(f"{name}: {seconds:.1f} s{later}")


class JobBars(_Bars):
    """Many jobs at once: a bar for the whole sweep, one for each job that runs.

    Args:
        title: What the sweep is called.
        cost: Expected cost of all its jobs, in any one unit.
        num_jobs: How many there are.
    """

    def __init__(self, title: str, cost: float, num_jobs: int) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._whole = self._bars.add_task(f"[bold]{title}", total=cost, left="")
        self._cost, self._num_jobs, self._num_ended = cost, num_jobs, 0
        self._running: dict[str, _Running] = {}
        self._ended_cost = 0.0

    def begin(self, key: str, title: str, cost: float) -> None:
        """A job has been started."""
        bar = self._bars.add_task(title, total=1.0, left="")
        self._running[key] = _Running(title, cost, bar)

    def advance(self, key: str, share: float) -> None:
        """More of a running job is done."""
        job = self._running[key]
        job.share = min(1.0, job.share + share)
        self._bars.update(job.bar, completed=job.share)
        self._update()

    def end(self, key: str) -> None:
        """A job is done: say so, with what is left of the sweep."""
        job = self._running.pop(key)
        self._bars.remove_task(job.bar)
        self._ended_cost += job.cost
        self._num_ended += 1
        self._update()
        seconds, left = time.perf_counter() - job.started, self._left()
        later = f", about {duration(left)} left" if left > 1 else ""
        self.say(f"{job.title}: {seconds:.1f} s ({self._num_ended} of {self._num_jobs}{later})")

    def restart(self, key: str) -> None:
        """A running job came to nothing."""
        self._bars.remove_task(self._running.pop(key).bar)
        self._update()

    def drop(self, cost: float) -> None:
        """A job will not be done."""
        self._cost -= cost
        self._num_jobs -= 1
        self._update()

    def _done(self) -> float:
        return self._ended_cost + sum(job.share * job.cost for job in self._running.values())

    def _left(self) -> float:
        done = self._done()
        passed = time.perf_counter() - self._started
        return passed / done * (self._cost - done) if done else 0.0

    def _update(self) -> None:
        left = self._left()
        self._bars.update(
            self._whole,
            completed=self._done(),
            total=self._cost,
            left=f"about {duration(left)} left" if left > 1 else "",
        )


@dataclass
class _Running:
    title: str
    cost: float
    bar: TaskID
    share: float = 0.0
    started: float = field(default_factory=time.perf_counter)


def duration(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
