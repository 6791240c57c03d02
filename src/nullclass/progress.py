"""What is running and how long it will take: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[float], None]
"""Told how many more of a stage's units are done."""


class Stages:
    """A job of several stages, each with an expected cost, shown as one bar over another.

    Args:
        title: What the whole job is called.
        cost: Expected cost of all its stages, in any one unit.
    """

    def __init__(self, title: str, cost: float) -> None:
        self.console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            speed_estimate_period=120,
        )
        self._whole: TaskID = self._bars.add_task(f"[bold]{title}", total=cost)
        self._started = time.perf_counter()
        self._cost, self._done = cost, 0.0

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
        self.console.print(line, highlight=False, soft_wrap=True)

    def skip(self, cost: float) -> None:
        """Count a stage as done that was found done."""
        self._cost -= cost
        self._bars.update(self._whole, total=self._cost)

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
