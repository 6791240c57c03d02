"""What a sweep has to do, job by job, and which needs which. Imports no torch.

Trainings; estimates of null curves, from trained models; images crafted on trained models; and
trials, which may need all of these.

A job's folder is named by the hash of its config and of the data, so that a folder with a result
is that job done, whoever did it, and another setting is another folder. (Device, threads and
versions can move the last bits; ``result.json`` tells them.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass

from nullclass.experiments.config import (
    AttackPlan,
    Config,
    Craft,
    Estimate,
    RobustPlan,
    Training,
    Trial,
)
from nullclass.results.schema import CRAFTED, ESTIMATES, LAST, MODELS, TRIALS

VERSION = 1
"""Part of every hash: raised when the same config comes to mean something else."""


@dataclass(frozen=True)
class Job:
    """One training, estimate, craft or trial."""

    config: Config
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
        if isinstance(self.config, Estimate):
            return f"estimating {self.config.name}, seed {self.config.seed}"
        if isinstance(self.config, Craft):
            return f"crafting {self.config.name}, seed {self.config.seed}"
        picked = "" if self.config.selection == LAST else f", selected on {self.config.selection}"
        return f"attacking {self.config.training.variant}{picked}"


def jobs_of(trials: Sequence[Trial], data_checksum: str) -> list[Job]:
    """The jobs of some trials and of all they need, each once, none before what it needs."""
    jobs: dict[str, Job] = {}

    known: dict[int, str] = {}

    def add(config: Config) -> str:
        # Many trials share a config, and what it needs goes deep: hashed once.
        told = id(config)
        if told not in known:
            needs = tuple(dict.fromkeys(add(other) for other in access_of(config)))
            known[told] = place_of(config, data_checksum)
            jobs.setdefault(known[told], Job(config, known[told], needs, cost_of(config)))
        return known[told]

    for trial in trials:
        add(trial)
    return list(jobs.values())


def access_of(config: Config) -> list[Config]:
    """What must be done before a job can be begun."""
    needed: list[Config | None]
    if isinstance(config, Training):
        asked = None if config.queries is None else config.queries.target.training
        estimate = None if config.nulls is None else config.nulls.estimate
        needed = [config.start, estimate, asked]
    elif isinstance(config, Estimate):
        needed = [config.model.training]
    elif isinstance(config, Craft):
        needed = [config.source.training]
    else:
        needed = [config.training, config.source, *config.crafted]
    return [other for other in needed if other is not None]


def place_of(config: Config, data_checksum: str) -> str:
    """The folder of a job, from the run folder."""
    parent = next(parent for kind, parent in _PARENTS.items() if isinstance(config, kind))
    name = config.model if isinstance(config, Trial) else config.name
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


_PARENTS = {Training: MODELS, Estimate: ESTIMATES, Craft: CRAFTED, Trial: TRIALS}


def cost_of(config: Config) -> float:
    """Expected cost of a job."""
    if isinstance(config, Training):
        return training_cost(config)
    if isinstance(config, Trial):
        return evaluation_cost(config)
    if isinstance(config, Craft):
        return _attack_cost(config.plan)
    steps: int = config.settings.get("num_steps", 1)
    return config.num_images / 1000 * (config.num_sizes + 12) * (1.0 + 2 * (steps - 1))


def training_cost(training: Training) -> float:
    """Expected cost of a training, looking at its selections included."""
    images = 60.0 * training.recipe.epochs
    if training.queries is not None:  # the set doubles every round
        images = 2 * training.queries.plan.budget / 1000 * training.recipe.epochs
    beside = 0.0
    if training.nulls is not None and training.nulls.weight is not None:
        beside = training.recipe.nulls_per_image
    if training.robust is not None:  # bounds are two passes; an attack's step is one
        beside = 1.0 + _num_steps(training.robust)
    passes = images * 3 * (1 + beside) * (0.6 if training.recipe.precision == "bfloat16" else 1)
    looked = 30 * training.recipe.epochs if training.selections else 0
    return passes + looked


ROBUST_STEPS = {"interval": 0, "mtl-ibp": 1, "adversarial": 7, "abstain": 0}
"""Steps of a robust loss's attack unless its settings say otherwise: the losses' own defaults,
which cannot be asked without torch; 0 for those that attack nothing."""


def _num_steps(robust: RobustPlan) -> int:
    default = ROBUST_STEPS.get(robust.loss, 0)
    if "bound_weight" in robust.settings:  # bounds alone, or mixed with attacked images
        default = 0 if robust.settings["bound_weight"] == 1 else ROBUST_STEPS["mtl-ibp"]
    return int(robust.settings.get("num_steps", default)) if default else 0


def evaluation_cost(trial: Trial) -> float:
    """Expected cost of a trial."""
    searched = 25 * trial.thresholds.num_images / 1000 if trial.thresholds is not None else 0
    asked = trial.decision_grid**3 / 100_000  # such images are tiny
    sized = sum(plan.num_images / 1000 * (3 + 3 * len(plan.sizes)) for plan in trial.sizes)
    tried = sum(c.plan.num_images / 1000 * len(c.plan.eps) for c in trial.crafted)
    attacked = sum(map(_attack_cost, trial.attacks))
    # Bounds take about as much as three passes, twice for every eps; and so does every answer of a
    # model that refuses what is not proved.
    proved = sum(plan.num_images / 1000 * (1 + 6 * len(plan.eps)) for plan in trial.proofs)
    answered = trial.num_clean / 1000 + searched + asked + sized + tried + attacked
    by_radius = 3 * trial.num_clean / 1000 * len(trial.radii)
    return answered * (1 if trial.radius is None else 3) + proved + by_radius


def _attack_cost(plan: AttackPlan) -> float:
    # A search attacks few images again at the larger eps, and about nine targets at the first.
    own = {"mi-fgsm": 10, "rays": plan.settings.get("num_queries", 2000) // 4}.get(plan.attack, 0)
    steps = plan.settings.get("num_steps", own), plan.settings.get("num_target_steps", 0)
    passes = 3.0 + len(plan.eps) if not any(steps) else 4.0 * steps[0] + 24.0 * steps[1]
    return plan.num_images / 1000 * passes
