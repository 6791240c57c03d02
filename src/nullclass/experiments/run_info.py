"""The ``run.json`` of a study's run: what its trials are, and whether two runs fit together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.core.provenance import now, provenance
from nullclass.data import Dataset
from nullclass.experiments.config import Trial
from nullclass.experiments.jobs import as_json, folder_of
from nullclass.experiments.study import Preset, Study
from nullclass.results import schema
from nullclass.results.info import DataInfo, RunInfo, Settings


def describe_run(
    study: Study, dataset: Dataset, preset: Preset, device: torch.device, trials: Sequence[Trial]
) -> RunInfo:
    """Return the ``run.json`` of these trials."""
    trainings = {
        trial.model: _without_seeds(json_values(trial.training)) for trial in reversed(trials)
    }
    first = {f"{trial.model}, {trial.selection}": trial for trial in reversed(trials)}
    data = DataInfo(**dataset.describe(), num_training_images=len(dataset.training_images()))
    return RunInfo(
        format=schema.FORMAT,
        study=study.name,
        claim=study.claim,
        preset=preset,
        models=_distinct([trial.model for trial in trials]),
        seeds=sorted({trial.seed for trial in trials}),
        selections=_distinct([trial.selection for trial in trials]),
        trials={
            f"{trial.model}, seed {trial.seed}, {trial.selection}": folder_of(
                trial, dataset.checksum
            )
            for trial in trials
        },
        settings=Settings(
            num_held_out=trials[0].training.validation,
            trainings=trainings,
            trials={title: settings_of(trial) for title, trial in first.items()},
            **_plans(trials),
        ),
        data=data,
        device=str(device),
        provenance=provenance(),
        started=now(),
    )


def _without_seeds(values: Any) -> Any:
    """Return JSON values without the seeds of the trainings in them."""
    if isinstance(values, list):
        return [_without_seeds(value) for value in values]
    if not isinstance(values, dict):
        return values
    is_training = "architecture" in values
    return {
        name: _without_seeds(value)
        for name, value in values.items()
        if not (is_training and name == "seed")
    }


def settings_of(trial: Trial) -> dict[str, Any]:
    """Return what all seeds of a trial share, without the fields that have their default."""
    values: dict[str, Any] = _without_seeds(json_values(as_json(trial)))
    if trial.source is not None:
        values["source"] = trial.source.model
    if trial.images_from is not None and trial.images_from.thresholds is not None:
        values["thresholds"] = {"num_images": trial.images_from.thresholds.num_images}
    return values


def _plans(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the attacks, crafted images and perturbations of the trials, each once."""
    plans = {
        "attacks": [json_values(plan) for trial in trials for plan in trial.attacks],
        "crafted": [
            {"source": craft.source_name} | json_values(craft.plan)
            for trial in trials
            for craft in trial.crafted
        ],
        "sizes": [json_values(plan) for trial in trials for plan in trial.sizes],
    }
    return {kind: _distinct(values) for kind, values in plans.items()}


def _distinct(values: list[Any]) -> list[Any]:
    return [value for index, value in enumerate(values) if value not in values[:index]]


def merge_info(study: Study, before: RunInfo, now: RunInfo, folder: Path) -> RunInfo:
    """Return the info of a run folder with the trials of another call or folder.

    Args:
        study: The study.
        before: Of the run folder.
        now: Of the other trials.
        folder: The run folder.

    Raises:
        UserError: If the two are of different studies or have different settings: one report
            cannot describe both.
    """
    if before.study != study.name:
        raise UserError(f"{folder} holds a run of {before.study}: choose another --out")
    if not before.settings.trials:
        raise UserError(f"{folder} does not say how its trials were made: choose another --out")
    old, new = before.settings, now.settings
    shared = old.trials.keys() & new.trials.keys()
    is_same = (
        (before.preset, old.num_held_out) == (now.preset, new.num_held_out)
        # the files may come from another source, but must hold the same data
        and before.data.checksum == now.data.checksum
    )
    changed = sorted(title for title in shared if old.trials[title] != new.trials[title])
    if changed or not is_same:
        what = changed[0] if is_same else "a run"
        raise UserError(f"{folder} holds {what} with other settings or data: choose another --out")
    known = {*before.models, *now.models}
    return replace(
        before,
        models=[name for name in study.variants if name in known],
        seeds=sorted({*before.seeds, *now.seeds}),
        selections=_distinct(before.selections + now.selections),
        trials=before.trials | now.trials,
        notes=_distinct(before.notes + now.notes),
        settings=replace(
            old,
            trainings=old.trainings | new.trainings,
            attacks=_distinct(old.attacks + new.attacks),
            crafted=_distinct(old.crafted + new.crafted),
            sizes=_distinct(old.sizes + new.sizes),
            trials=old.trials | new.trials,
        ),
    )


def with_note(info: RunInfo, now: RunInfo) -> RunInfo:
    """Return the info of a run with a sentence for the report, if other trials are from elsewhere.

    Args:
        info: Of the run.
        now: Of the other trials.
    """

    def origin(of: RunInfo) -> tuple[Any, ...]:
        return replace(of.provenance.machine, num_threads=0), of.device, of.provenance.versions

    if origin(info) == origin(now):
        return info
    versions = ", ".join(f"{name} {text}" for name, text in now.provenance.versions.items())
    note = (
        "Some results were computed on another machine or with other versions "
        f"({now.provenance.machine.processor}, {now.device}, {versions})."
    )
    return replace(info, notes=_distinct([*info.notes, note]))
