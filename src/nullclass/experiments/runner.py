"""Runs a study: gives its jobs to an engine, skips finished ones and retries failed ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from msgspec.structs import replace

from nullclass.core.checks import shown
from nullclass.core.errors import CannotWriteError, UserError
from nullclass.core.paths import inside
from nullclass.data import Dataset
from nullclass.experiments.config import Trial
from nullclass.experiments.engines.base import Done, Engine, Event, Failed, Progress, Task
from nullclass.experiments.jobs import Job, jobs_of
from nullclass.experiments.progress import JobBars
from nullclass.experiments.run_info import describe_run, merge_info, with_note
from nullclass.experiments.study import Preset, Study
from nullclass.results import schema, store
from nullclass.results.run import read_run, write_summary

NUM_ATTEMPTS = 3
"""Attempts at a job before the runner gives it up."""


@dataclass
class RunResult:
    """What :func:`run_study` did."""

    num_done: int = 0
    """Jobs done by this call."""
    num_skipped: int = 0
    """Jobs that were finished already."""
    failed: dict[str, str] = field(default_factory=dict)
    """Titles of the jobs given up, with the reasons."""
    peak_mb: float = 0.0
    """Peak memory of a worker, in MB."""

    def __str__(self) -> str:
        """Return one line per job given up."""
        return "\n".join(f"{title}: given up ({why})" for title, why in self.failed.items())


def plan_trials(
    study: Study,
    preset: Preset,
    seeds: Sequence[int] | None = None,
    variants: Sequence[str] | None = None,
) -> list[Trial]:
    """Return the trials of some seeds and variants, by default all those of the preset.

    Raises:
        UserError: If the study has no such preset, or it or the preset no such variant.
    """
    if preset not in study.num_seeds:
        raise UserError(
            f"the study {study.name} has no preset {shown(preset)}: choose from "
            f"{', '.join(study.num_seeds)}"
        )
    seeds = range(study.num_seeds[preset]) if seeds is None else seeds
    for name in variants or ():
        if name not in study.variants:
            raise UserError(
                f"the study {study.name} has no variant {shown(name)}: choose from "
                f"{', '.join(study.variants)}"
            )
    trials = study.trials(preset, seeds, study.variants if variants is None else variants)
    models = {trial.model for trial in trials}
    for name in variants or ():
        if seeds and name not in models:
            raise UserError(f"the preset {preset} of {study.name} has no {name}: use another")
    return trials


def run_study(
    study: Study,
    dataset: Dataset,
    folder: Path,
    *,
    engine: Engine,
    device: torch.device,
    preset: Preset = "quick",
    trials: Sequence[Trial] | None = None,
) -> RunResult:
    """Do every unfinished job of a study and write the run's tables.

    The call can be interrupted and repeated at any time: finished jobs are skipped, and a training
    resumes from its last complete epoch.

    Args:
        study: The study.
        dataset: Its data, with ``study.validation`` images held out.
        folder: The run folder. It may hold other seeds and variants of the same preset.
        engine: Does the jobs; closed at the end.
        device: Device of the computations, recorded in ``run.json``.
        preset: One of the study's presets.
        trials: Some of the preset's trials, as of :func:`plan_trials`; by default all. Models that
            they depend on are trained too.

    Returns:
        The number of jobs done and skipped, and those given up after three attempts.

    Raises:
        UserError: If the folder holds a run with other settings, is in use by another process or
            cannot be written.
    """
    with ExitStack() as locks, closing(engine):  # closed before the folder is released
        if trials is None:
            trials = plan_trials(study, preset)
        if not trials:
            raise UserError(f"there is nothing to do: name seeds and variants of {study.name}")
        locks.enter_context(store.writing(folder))
        info = now = describe_run(study, dataset, preset, device, trials)
        if (folder / schema.RUN).exists():
            info = merge_info(study, store.read_info(folder), now, folder)
        started = time.perf_counter()
        jobs = jobs_of(trials, dataset.checksum)
        runner = _Runner(f"{study.name} ({preset})", jobs, dataset.checksum, folder, engine)
        if runner.waiting:
            info = with_note(info, now)
        store.write_info(folder, info)
        result = runner.run()
        _check_present(folder, jobs, result)
        with store.drawing(folder):
            if result.num_done:
                info = replace(
                    info,
                    seconds=round(info.seconds + time.perf_counter() - started, 1),
                    peak_mb=max(info.peak_mb, result.peak_mb),
                )
                store.remove_views(folder)  # of fewer trials
                store.write_info(folder, info)
            write_summary(read_run(folder, study.published))
        return result


class _Runner:
    """Starts jobs when what they need is finished, until none is left."""

    def __init__(
        self, title: str, jobs: list[Job], data_checksum: str, run_folder: Path, engine: Engine
    ) -> None:
        self.data_checksum = data_checksum
        self.run_folder = run_folder
        self.engine = engine
        unfinished = [job for job in jobs if not store.is_complete(inside(run_folder, job.folder))]
        self.waiting = {job.folder: job for job in unfinished}
        """In the study's order: every job after what it needs."""
        self.running: dict[str, Job] = {}
        self.attempts = dict.fromkeys(self.waiting, 0)
        self.result = RunResult(num_skipped=len(jobs) - len(unfinished))
        self.bars = JobBars(title, unfinished)

    def run(self) -> RunResult:
        """Do the jobs."""
        with self.bars:
            if self.result.num_skipped:
                total = self.result.num_skipped + len(self.waiting)
                self.bars.say(f"{self.result.num_skipped} of {total} jobs are finished already")
            while self.waiting or self.running:
                while self.engine.has_room() and (job := self._next()):
                    self.running[job.folder] = self.waiting.pop(job.folder)
                    self.bars.begin(job)
                    self.engine.start(Task(job, self.run_folder, self.data_checksum))
                self.engine.wait(self._on_event)
        return self.result

    def _next(self) -> Job | None:
        """Return the first waiting job of which all needs are finished."""
        unfinished = self.waiting.keys() | self.running.keys()
        ready = (job for job in self.waiting.values() if not unfinished.intersection(job.needs))
        return next(ready, None)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Progress):
            self.bars.advance(self.running[event.folder], event.share)
            return
        job = self.running.pop(event.folder)
        if isinstance(event, Done):
            self.result.peak_mb = max(self.result.peak_mb, event.peak_mb)
            if store.is_complete(self.run_folder / job.folder):
                self.result.num_done += 1
                self.bars.end(job)
                return
            event = Failed(
                job.folder, "its result is not in the run folder: do all workers see --out?"
            )
        self.bars.fail(job)
        if event.is_fatal:
            raise CannotWriteError(event.reason)
        # First in the queue: the study's order is that of the attempts too.
        self.waiting = {job.folder: job} | self.waiting
        self.attempts[job.folder] += 1
        if self.attempts[job.folder] < NUM_ATTEMPTS:
            self.bars.say(f"{job.title}: {event.reason}; trying again")
        else:
            self._give_up(job, event.reason)

    def _give_up(self, job: Job, reason: str) -> None:
        """Remove a job and all jobs that need it."""
        lost = [job]
        for other in self.waiting.values():  # each after what it needs
            if {one.folder for one in lost}.intersection(other.needs):
                lost.append(other)
        for one in lost:
            del self.waiting[one.folder]
            self.bars.drop(one)
            self.result.failed[one.title] = f"it needs what failed: {job.title}"
        self.result.failed[job.title] = reason
        also = f", and with it {len(lost) - 1} jobs that need it" if lost[1:] else ""
        self.bars.say(f"{job.title}: given up after {NUM_ATTEMPTS} attempts{also} ({reason})")


def _check_present(folder: Path, jobs: Sequence[Job], result: RunResult) -> None:
    """Raise UserError if a finished job's result is gone: somebody removed it meanwhile."""
    for job in jobs:
        if job.title not in result.failed and not (folder / job.folder / schema.RESULT).exists():
            raise UserError(
                f"{folder / job.folder} was removed while the study ran: run the same command again"
            )
