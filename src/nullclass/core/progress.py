"""Progress bars on a terminal and in Jupyter, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
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
"""Receives the number of units done since its last call."""


class Bars:
    """A context manager that shows bars on standard error, with lines above them.

    Args:
        columns: Columns of each bar.
        settings: Further arguments of :class:`rich.progress.Progress`.
    """

    def __init__(self, *columns: ProgressColumn, **settings: Any) -> None:
        self.console = Console(stderr=True)
        # Jupyter's bars are a widget; without ipywidgets rich would warn at each update
        has_widgets = self.console.is_jupyter and find_spec("ipywidgets") is not None
        is_hidden = not (self.console.is_terminal or has_widgets)
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


MIN_SHARE = 0.1
"""Share of the expected cost that is done before the time left is estimated."""


class Stages(Bars):
    """A bar for a job of several stages, and one for the current stage.

    Args:
        title: Name of the job.
        cost: Expected cost of all stages, in any unit.
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
        self._whole: TaskID = self._bars.add_task(f"[bold]{escape(title)}", total=cost)
        self._cost, self._done = cost, 0.0

    @contextmanager
    def stage(self, name: str, *, units: float, cost: float) -> Iterator[Advance]:
        """Show one stage; the result receives the units done since its last call.

        Args:
            name: Name of the stage.
            units: Number of units in total.
            cost: Expected cost of the stage.
        """
        task = self._bars.add_task(escape(name), total=units)
        started, reported = time.perf_counter(), 0.0

        def advance(done: float) -> None:
            nonlocal reported
            step = min(done, units - reported)
            reported += step
            self._bars.advance(task, done)
            self._bars.advance(self._whole, cost * step / units)

        yield advance
        self._bars.advance(self._whole, cost * (units - reported) / units)
        self._bars.remove_task(task)
        self._done += cost
        seconds, passed = time.perf_counter() - started, time.perf_counter() - self._started
        left = passed / self._done * (self._cost - self._done)
        is_known = left > 1 and self._done >= MIN_SHARE * self._cost
        later = f", about {duration(left)} left" if is_known else ""
        self.say(f"{name}: {seconds:.1f} s{later}")


def duration(seconds: float) -> str:
    """Return a duration in a unit that is easy to read."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
