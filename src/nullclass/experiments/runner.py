"""Runs a study: its jobs, on an engine; skips what is recorded, tries again what failed."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from nullclass.core.errors import CannotWriteError, UserError
from nullclass.core.files import make_folder, write_json
from nullclass.core.progress import JobBars
from nullclass.core.provenance import run_origin
from nullclass.data import Dataset
from nullclass.experiments.config import Preset, Study, Training, Trial
from nullclass.experiments.engines.base import Done, Engine, Event, Failed, Progress, Task
from nullclass.experiments.jobs import Job, jobs_of, place_of
from nullclass.results import schema, store

NUM_ATTEMPTS = 3
"""How often a job is tried before it is given up."""

LOCK = ".lock"


@dataclass
class Outcome:
    """What became of a sweep."""

    num_done: int = 0
    """Jobs done now."""
    num_recorded: int = 0
    """Jobs found done."""
    failed: dict[str, str] = field(default_factory=dict)
    """Titles of jobs given up, and why."""
    peak_mb: float = 0.0
    """The most memory any worker held, in MB."""

    def __str__(self) -> str:
        """In a sentence or two, for a person."""
        lines = [f"{title} was given up: {reason}" for title, reason in self.failed.items()]
        return "\n".join(lines)


def run_study(
    study: Study,
    dataset: Dataset,
    folder: Path,
    *,
    engine: Engine,
    device: torch.device,
    preset: Preset = "quick",
    seeds: Sequence[int] | None = None,
    variants: Sequence[str] | None = None,
    trials: Sequence[Trial] | None = None,
) -> Outcome:
    """Do every job of a study that is not recorded yet, and write the run's tables.

    Stopped at any moment, the same call goes on: what is recorded is skipped, a training goes on
    from its last whole epoch.

    Args:
        study: The study.
        dataset: The data, split as the study says.
        folder: The run folder; other seeds and variants of the same preset may be in it already.
        engine: What does the jobs; closed at the end.
        device: Where to compute, for the record.
        preset: ``quick`` or ``full``.
        seeds: Other seeds than the preset's.
        variants: Only these models (what they are attacked with is trained all the same).
        trials: Other trials than the study's, for a run of one's own.

    Returns:
        What was done, and what was given up after three attempts while the rest went on.

    Raises:
        UserError: If the folder holds a run with other settings, is in use by another process or
            cannot be written.
    """
    try:
        if trials is None:
            seeds = study.seeds(preset) if seeds is None else seeds
            trials = study.trials(preset, seeds, _known(study, variants))
        if not trials:
            raise UserError(f"there is nothing to do: name seeds and variants of {study.name}")
        return _run_trials(study, dataset, folder, engine, device, preset, trials)
    finally:
        engine.close()


def _run_trials(
    study: Study,
    dataset: Dataset,
    folder: Path,
    engine: Engine,
    device: torch.device,
    preset: Preset,
    trials: Sequence[Trial],
) -> Outcome:
    make_folder(folder)
    with locked(folder):
        _write_run(study, dataset, folder, preset, device, trials)
        started = time.perf_counter()
        jobs = jobs_of(trials, dataset.checksum)
        outcome = _run(f"{study.name} ({preset})", jobs, dataset, folder, engine)
        store.write_summary(folder, study.name, study.published)
        if outcome.num_done:
            told = store.read_info(folder)
            seconds = told.get("seconds", 0) + time.perf_counter() - started
            told["seconds"] = round(seconds, 1)
            told["peak_mb"] = max(told.get("peak_mb", 0), outcome.peak_mb)
            write_json(folder / schema.RUN, told)
    return outcome


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep the folder to ourselves; the system lets go when the process ends, however it ends.

    Raises:
        UserError: If another process has it.
    """
    try:
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise CannotWriteError(f"cannot write to the folder {folder}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is running a study in {folder}: wait for it, or choose another "
                "--out"
            ) from None
        except OSError as error:
            raise UserError(
                f"{folder} cannot be locked ({error.strerror}): choose an --out on another disk"
            ) from None
        yield


def _run(title: str, jobs: list[Job], dataset: Dataset, folder: Path, engine: Engine) -> Outcome:
    """Start what can be started, hear what happened, until nothing is left."""
    outcome = Outcome()
    waiting = {job.place: job for job in jobs if not store.is_complete(folder / job.place)}
    outcome.num_recorded = len(jobs) - len(waiting)
    running: dict[str, Job] = {}
    attempts = dict.fromkeys(waiting, 0)
    with JobBars(title, sum(job.cost for job in waiting.values()), len(waiting)) as bars:
        if outcome.num_recorded:
            bars.say(f"{outcome.num_recorded} of {len(jobs)} jobs are recorded already")

        def give_up(job: Job, reason: str) -> None:
            outcome.failed[job.title] = reason
            bars.drop(job.cost)
            lost = _dependents(job, waiting)
            for other in lost:
                del waiting[other.place]
                outcome.failed[other.title] = f"it needs what failed: {job.title}"
                bars.drop(other.cost)
            also = f", and with it {len(lost)} jobs that need it" if lost else ""
            bars.say(f"{job.title}: given up after {NUM_ATTEMPTS} attempts{also} ({reason})")

        def hear(event: Event) -> None:
            if isinstance(event, Progress):
                for place in event.places:
                    bars.advance(place, event.share)
                return
            finished = [running.pop(place) for place in event.places]
            if isinstance(event, Done):
                outcome.peak_mb = max(outcome.peak_mb, event.told.get("peak_mb") or 0.0)
            for job in finished:
                # Of a stack that failed, some models may be whole all the same.
                if store.is_complete(folder / job.place):
                    outcome.num_done += 1
                    bars.end(job.place)
                    continue
                if isinstance(event, Done):
                    reason = "its result is not in the run folder: do all workers see --out?"
                    event = Failed(event.places, reason)
                bars.restart(job.place)
                if event.is_hopeless:
                    raise CannotWriteError(event.reason)
                attempts[job.place] += 1
                if attempts[job.place] < NUM_ATTEMPTS:
                    bars.say(f"{job.title}: {event.reason}; trying again")
                    waiting[job.place] = job
                else:
                    give_up(job, event.reason)

        while waiting or running:
            while engine.has_room():
                chosen = _next(jobs, waiting, running)
                if not chosen:
                    break
                for job in chosen:
                    running[job.place] = waiting.pop(job.place)
                    bars.begin(job.place, job.title, job.cost)
                places = tuple(job.place for job in chosen)
                configs = tuple(job.config for job in chosen)
                engine.start(Task(configs, places, folder, dataset.checksum))
            engine.wait(hear)
    return outcome


def _next(jobs: list[Job], waiting: dict[str, Job], running: dict[str, Job]) -> list[Job]:
    """The first waiting job, in the study's order, of which all needs are done; or none."""
    undone = waiting.keys() | running.keys()
    ready = [job for job in jobs if job.place in waiting and not undone.intersection(job.needs)]
    return ready[:1]


def _dependents(job: Job, waiting: dict[str, Job]) -> list[Job]:
    """Waiting jobs that need a job, or need what needs it."""
    lost: dict[str, Job] = {job.place: job}
    for other in waiting.values():  # none stands before what it needs
        if lost.keys() & set(other.needs):
            lost[other.place] = other
    return list(lost.values())[1:]


def _known(study: Study, variants: Sequence[str] | None) -> Sequence[str]:
    for name in variants or ():
        if name not in study.variants:
            raise UserError(
                f"the study {study.name} has no variant {name!r}: choose from "
                f"{', '.join(study.variants)}"
            )
    return study.variants if variants is None else variants


def _write_run(
    study: Study,
    dataset: Dataset,
    folder: Path,
    preset: Preset,
    device: torch.device,
    trials: Sequence[Trial],
) -> None:
    first = trials[0]
    told: dict[str, Any] = {
        "study": study.name,
        "claim": study.claim,
        "preset": preset,
        "models": [name for name in study.variants if any(t.model == name for t in trials)],
        "seeds": sorted({trial.seed for trial in trials}),
        "selections": list(dict.fromkeys(trial.selection for trial in trials)),
        "trials": {
            f"{trial.model}, seed {trial.seed}, {trial.selection}": place_of(
                trial, dataset.checksum
            )
            for trial in trials
        },
        "settings": {
            "validation": first.training.validation,
            **_plans_of(trials),
            "trainings": {trial.model: _told(trial.training) for trial in reversed(trials)},
            **study.units,
        },
        **run_origin(dataset.describe(), device),
    }
    told["data"]["num_training_images"] = len(dataset.train)
    if (folder / schema.RUN).exists():
        before = store.read_info(folder)
        _check_same_run(folder, before, told)
        # More seeds and variants may join; what made the run is told already.
        models = {*before["models"], *told["models"]}
        before["trials"] = before.get("trials", {}) | told["trials"]
        before["models"] = [name for name in study.variants if name in models]
        before["seeds"] = sorted({*before["seeds"], *told["seeds"]})
        before["settings"]["trainings"] |= told["settings"]["trainings"]
        for kind in _plans_of(trials):
            plans = before["settings"].setdefault(kind, [])
            plans += [plan for plan in told["settings"][kind] if _plain(plan) not in plans]
        told = before
    write_json(folder / schema.RUN, told)


def _told(training: Training) -> dict[str, Any]:
    """A config for the record of a run, without the seed, which differs."""
    told = asdict(training)
    del told["seed"]
    return told


def _plans_of(trials: Sequence[Trial]) -> dict[str, list[dict[str, Any]]]:
    """Attacks, images crafted on other models and perturbations by size, each once."""
    plans: dict[str, list[dict[str, Any]]] = {
        "attacks": [asdict(plan) for trial in trials for plan in trial.attacks],
        "crafted": [
            {"source": craft.source_name} | asdict(craft.plan)
            for trial in trials
            for craft in trial.crafted
        ],
        "sizes": [asdict(plan) for trial in trials for plan in trial.sizes],
    }
    return {
        kind: [plan for place, plan in enumerate(told) if plan not in told[:place]]
        for kind, told in plans.items()
        if told or kind == "attacks"
    }


def _check_same_run(folder: Path, before: dict[str, Any], told: dict[str, Any]) -> None:
    """Refuse to mix runs: each job's folder is safe, but one report cannot speak of two."""
    try:
        found = {key: before[key] for key in ("study", "preset")}
        found["validation"] = before["settings"]["validation"]
        # Where the files came from may change, what they hold may not.
        found["data"] = before["data"]["checksum"]
        others = {
            name: training
            for name, training in before["settings"]["trainings"].items()
            if name in told["settings"]["trainings"]
        }
    except (KeyError, TypeError):
        raise UserError(
            f"{folder / schema.RUN} does not describe a run: choose another --out, or remove it"
        ) from None
    wanted = {key: told[key] for key in ("study", "preset")}
    wanted["validation"] = told["settings"]["validation"]
    wanted["data"] = told["data"]["checksum"]
    trainings = {name: told["settings"]["trainings"][name] for name in others}
    if _plain(wanted) != _plain(found) or not _agree(_plain(others), _plain(trainings)):
        raise UserError(
            f"{folder} holds a run with other settings or data: choose another --out, or remove "
            "that folder to start again"
        )


def _agree(before: Any, now: Any) -> bool:
    """Whether two configs are alike in all that the older one tells.

    A later version's configs have more fields. That these do not change what the older run is, the
    hashes of its jobs vouch for.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        return all(key in now and _agree(value, now[key]) for key, value in before.items())
    return bool(before == now)


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value))
