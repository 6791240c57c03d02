"""The jobs of a run: trainings, null curves, crafted images and trials, and what each needs.

A job's folder is named by the hash of its config and of the data. Finished jobs are skipped;
changed settings get a new folder. Device, number of threads and versions are not part of the hash
(they can change the last bits); ``result.json`` records them. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass

from nullclass.core.paths import file_name
from nullclass.experiments.config import Config, Craft, Estimate, Training, Trial
from nullclass.results.schema import CRAFTED, ESTIMATES, LAST, MODELS, TRIALS

VERSION = 1
"""Part of every hash: raise it when a config gets another meaning."""

_PARENTS: dict[type, str] = {
    Training: MODELS,
    Estimate: ESTIMATES,
    Craft: CRAFTED,
    Trial: TRIALS,
}


@dataclass(frozen=True)
class Job:
    """One training, estimate, craft or trial."""

    config: Config
    folder: str
    """Relative to the run folder."""
    needs: tuple[str, ...]
    """Folders of the jobs that must be finished before."""

    @property
    def title(self) -> str:
        """Shown while the job runs."""
        config = self.config
        if isinstance(config, Training):
            return f"training {config.name}, seed {config.seed}"
        if isinstance(config, Estimate):
            return f"estimating {config.name}, seed {config.seed}"
        if isinstance(config, Craft):
            return f"crafting {config.name}, seed {config.seed}"
        picked = "" if config.selection == LAST else f", selected on {config.selection}"
        return f"attacking {config.model}, seed {config.seed}{picked}"


def jobs_of(trials: Sequence[Trial], data_checksum: str) -> list[Job]:
    """Return the jobs of the trials and of all they need, each once, after what it needs."""
    jobs: dict[str, Job] = {}
    known: dict[int, str] = {}  # trials share deeply nested configs: hash each object once

    def add(config: Config) -> str:
        if id(config) not in known:
            needs = tuple(dict.fromkeys(add(other) for other in needs_of(config)))
            folder = known[id(config)] = folder_of(config, data_checksum)
            jobs.setdefault(folder, Job(config, folder, needs))
        return known[id(config)]

    for trial in trials:
        add(trial)
    return list(jobs.values())


def needs_of(config: Config) -> list[Config]:
    """Return the configs whose jobs must be finished before this one starts."""
    needed: list[Config | None]
    if isinstance(config, Training):
        target = None if config.queries is None else config.queries.target.training
        estimate = None if config.nulls is None else config.nulls.estimate
        needed = [config.start, estimate, target]
    elif isinstance(config, Estimate):
        needed = [config.model.training]
    elif isinstance(config, Craft):
        needed = [config.source.training]
    else:
        source = None if config.source is None else config.source.training
        needed = [config.training, config.source, source, *config.crafted]
    return [other for other in needed if other is not None]


def folder_of(config: Config, data_checksum: str) -> str:
    """Return the folder of a job, relative to the run folder."""
    parent = _PARENTS[type(config)]
    name = config.model if isinstance(config, Trial) else config.name
    key = {"version": VERSION, "kind": parent, "config": as_json(config), "data": data_checksum}
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]
    return f"{parent}/{file_name(f'{name}-seed{config.seed}-{digest}')}"


def as_json(config: object) -> object:
    """Return a config as JSON values, without the fields that have their default.

    A new field with a default then leaves the folders of existing configs unchanged.
    """
    if is_dataclass(config):
        values = {f: getattr(config, f.name) for f in fields(config)}
        return {
            f.name: as_json(value)
            for f, value in values.items()
            if value != (f.default_factory() if callable(f.default_factory) else f.default)
        }
    if isinstance(config, float) and config.is_integer():
        return int(config)  # 0 and 0.0 are one setting
    return [as_json(item) for item in config] if isinstance(config, tuple) else config
