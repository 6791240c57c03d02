"""Progress of a run: one bar for all jobs and one per running job, or lines without a terminal."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn

from nullclass.core.progress import Bars, duration
from nullclass.experiments.jobs import Job


@dataclass
class _Running:
    kind: type
    bar: TaskID
    started: float
    share: float = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


class JobBars(Bars):
    """Bars of a run's jobs, with an estimate of the remaining time.

    Args:
        title: Name of the run.
        jobs: The jobs to do.
    """

    def __init__(self, title: str, jobs: Sequence[Job]) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._total = self._bars.add_task(f"[bold]{title}", total=len(jobs), left="")
        self._waiting = Counter(type(job.config) for job in jobs)
        self._running: dict[str, _Running] = {}
        self._seconds: dict[type, list[float]] = defaultdict(list)
        """Durations of the finished jobs, by kind."""
        self._num_at_once = 1
        self._num_jobs, self._num_ended = len(jobs), 0

    def begin(self, job: Job) -> None:
        """Show a job that starts."""
        self._waiting[type(job.config)] -= 1
        bar = self._bars.add_task(job.title, total=1.0, left="")
        self._running[job.folder] = _Running(type(job.config), bar, time.perf_counter())
        self._num_at_once = max(self._num_at_once, len(self._running))

    def advance(self, job: Job, share: float) -> None:
        """Show the share of a running job that is done."""
        running = self._running[job.folder]
        running.share = share
        self._bars.update(running.bar, completed=share)
        self._update()

    def end(self, job: Job) -> None:
        """Print the duration of a finished job and the remaining time."""
        running = self._running.pop(job.folder)
        self._bars.remove_task(running.bar)
        self._seconds[type(job.config)].append(running.seconds)
        self._num_ended += 1
        left = self._update()
        later = f", {left}" if left else ""
        ended = f"{self._num_ended} of {self._num_jobs}"
        self.say(f"{job.title}: {running.seconds:.1f} s ({ended}{later})")

    def fail(self, job: Job) -> None:
        """Return a running job that failed to the waiting ones."""
        self._bars.remove_task(self._running.pop(job.folder).bar)
        self._waiting[type(job.config)] += 1

    def drop(self, job: Job) -> None:
        """Remove a waiting job that will not be done."""
        self._waiting[type(job.config)] -= 1
        self._num_jobs -= 1
        self._update()

    def seconds_left(self) -> float:
        """Estimate the remaining time from the mean duration of the finished jobs of each kind.

        Jobs of a kind of which none has finished count as the mean of all. Returns 0 before the
        first job has finished.
        """
        finished = [seconds for kind in self._seconds.values() for seconds in kind]
        if not finished:
            return 0.0
        expected = {
            kind: statistics.fmean(self._seconds[kind] or finished)
            for kind in {*self._waiting, *(running.kind for running in self._running.values())}
        }
        left = sum(count * expected[kind] for kind, count in self._waiting.items())
        for running in self._running.values():
            left += max(0.0, expected[running.kind] - running.seconds)
        return left / self._num_at_once

    def _update(self) -> str:
        seconds = self.seconds_left()
        left = f"about {duration(seconds)} left" if seconds > 1 else ""
        shares = sum(running.share for running in self._running.values())
        self._bars.update(
            self._total, completed=self._num_ended + shares, total=self._num_jobs, left=left
        )
        return left
