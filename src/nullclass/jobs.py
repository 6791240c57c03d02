"""What a sweep has to do, job by job: trainings, and trials that need them. Imports no torch.

A job's folder is named by the hash of its config and of the data, so that a folder with a result
is that job done, whoever did it, and another setting is another folder. (Device, threads and
versions can move the last bits; ``result.json`` tells them.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass

from nullclass.records import MODELS, TRIALS
from nullclass.studies.base import LAST, AttackPlan, Training, Trial

VERSION = 1
"""Part of every hash: raised when the same config comes to mean something else."""


@dataclass(frozen=True)
class Job:
    """One training or one trial."""

    config: Training | Trial
    place: str
    """Its folder, from the run folder."""
    needs: tuple[str, ...]
    """Folders of jobs that must be done before."""
    cost: float
    """Expected cost in float32 passes over a thousand MNIST images."""

    @property
    def title(self) -> str:
        """What is shown while it runs."""
        if isinstance(self.config, Training):
            return f"training {self.config.variant}"
        picked = "" if self.config.selection == LAST else f", selected on {self.config.selection}"
        return f"attacking {self.config.training.variant}{picked}"


def jobs_of(trials: Sequence[Trial], data_checksum: str) -> list[Job]:
    """The jobs of some trials and of all they need, each once, none before what it needs."""
    jobs: dict[str, Job] = {}

    def add(config: Training | Trial) -> str:
        needed: list[Training | Trial | None]
        if isinstance(config, Training):
            needed, cost = [config.start], training_cost(config)
        else:
            needed, cost = [config.training, config.source], evaluation_cost(config)
        needs = tuple(add(other) for other in needed if other is not None)
        place = place_of(config, data_checksum)
        jobs.setdefault(place, Job(config, place, needs, cost))
        return place

    for trial in trials:
        add(trial)
    return list(jobs.values())


def place_of(config: Training | Trial, data_checksum: str) -> str:
    """The folder of a training or a trial, from the run folder."""
    parent, name = (MODELS, config.name) if isinstance(config, Training) else (TRIALS, config.model)
    told = {"version": VERSION, "kind": parent, "config": _telling(config), "data": data_checksum}
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:10]
    return f"{parent}/{name}-seed{config.seed}-{digest}"


def _telling(config: object) -> object:
    """A config as JSON values, without what is at its default.

    So a field that a later version adds leaves the folders of what it does not change as they are.
    """
    if is_dataclass(config):
        fields_of = {f.name: (f, getattr(config, f.name)) for f in fields(config)}
        return {
            name: _telling(value)
            for name, (f, value) in fields_of.items()
            if value != (f.default_factory() if callable(f.default_factory) else f.default)
        }
    if isinstance(config, float) and config.is_integer():
        return int(config)  # 0 and 0.0 are one setting
    return [_telling(item) for item in config] if isinstance(config, tuple) else config


def training_cost(training: Training) -> float:
    """Expected cost of a training, looking at its selections included."""
    images = 60 * training.recipe.epochs
    beside = 0.0
    if training.nulls is not None and training.nulls.weight is not None:
        beside = training.recipe.null_fraction
    passes = images * 3 * (1 + beside) * (0.6 if training.recipe.precision == "bfloat16" else 1)
    looked = 30 * training.recipe.epochs if training.selections else 0
    return passes + looked


def evaluation_cost(trial: Trial) -> float:
    """Expected cost of a trial."""
    searched = 25 * trial.thresholds.num_images / 1000 if trial.thresholds is not None else 0
    asked = trial.decision_grid**3 / 100_000  # such images are tiny
    return trial.num_clean / 1000 + searched + asked + sum(map(_attack_cost, trial.attacks))


def _attack_cost(plan: AttackPlan) -> float:
    # A search attacks few images again at the larger eps, and about nine targets at the first.
    steps = plan.settings.get("num_steps", 0), plan.settings.get("num_target_steps", 0)
    passes = 3.0 + len(plan.eps) if not any(steps) else 4.0 * steps[0] + 24.0 * steps[1]
    return plan.num_images / 1000 * passes
