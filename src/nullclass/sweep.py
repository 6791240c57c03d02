"""Runs a study's trials one after another and skips what is recorded."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from nullclass import records
from nullclass.attacks import ATTACKS
from nullclass.data import Dataset
from nullclass.errors import UserError
from nullclass.evaluate import evaluate
from nullclass.files import make_folder, read_json, write_json
from nullclass.models import Classifier, build_model
from nullclass.models.checkpoint import CARD, load_checkpoint, save_checkpoint
from nullclass.nulls import NULL_SOURCES
from nullclass.progress import Advance, Stages
from nullclass.provenance import provenance, run_origin
from nullclass.randomness import borrowed_stream
from nullclass.studies.base import AttackPlan, Preset, Study, Training, Trial
from nullclass.train import STATE, TrainConfig, train


def run_study(
    study: Study,
    dataset: Dataset,
    folder: Path,
    *,
    preset: Preset,
    device: torch.device,
    trials: list[Trial] | None = None,
) -> None:
    """Train and evaluate every trial that is not recorded yet, and write the run's tables.

    Stopped at any moment, the same call goes on: whole trials are skipped, a training goes on
    from its last whole epoch.

    Args:
        study: The study.
        dataset: The data, split as the study says.
        folder: The run folder.
        preset: ``quick`` or ``full``.
        device: Where to compute.
        trials: Other trials than the preset's, for a smaller run.

    Raises:
        UserError: If the folder holds a run with other settings or cannot be written.
    """
    trials = study.trials(preset) if trials is None else trials
    make_folder(folder)
    _write_run(study, dataset, folder, preset, device, trials)
    started, num_done = time.perf_counter(), 0
    with Stages(f"{study.name} ({preset})", sum(map(_cost, trials))) as stages:
        for trial in trials:
            place = records.trial_folder(folder, trial.model, trial.seed)
            if _is_recorded(place, trial, dataset):
                stages.skip(_cost(trial))
                stages.say(f"{trial.model}, seed {trial.seed}: recorded already")
                continue
            run_trial(trial, dataset, place, device=device, stages=stages)
            num_done += 1
    records.write_summary(folder, study.name, study.published)
    if num_done:
        told = records.read_info(folder)
        told["seconds"] = round(told.get("seconds", 0) + time.perf_counter() - started, 1)
        write_json(folder / records.RUN, told)


def run_trial(
    trial: Trial, dataset: Dataset, folder: Path, *, device: torch.device, stages: Stages
) -> None:
    """Train one model (unless its checkpoint is there), evaluate it, record it."""
    name = f"{trial.model}, seed {trial.seed}"
    training = asdict(trial.training)
    _check_data(trial.training, dataset)
    if (folder / CARD).exists():
        model, card = load_checkpoint(folder, device=device)
        _check_same(folder, "checkpoint", card.get("training"), training)
        _check_same(folder, "checkpoint", card.get("data_checksum"), dataset.checksum)
        stages.skip(_training_cost(trial.training))
        (folder / STATE).unlink(missing_ok=True)  # left by a kill just after the card was written
        history_file = folder / records.HISTORY
        history = records.read_frame(history_file) if history_file.exists() else pd.DataFrame()
    else:
        units = trial.training.recipe.epochs * len(dataset.train)
        with stages.stage(
            f"training {name}", units=units, cost=_training_cost(trial.training)
        ) as advance:
            model, history = train_from(
                trial.training, dataset, folder, device=device, advance=advance
            )
    started = time.perf_counter()
    units = trial.num_clean + sum(plan.num_images * len(plan.eps) for plan in trial.attacks)
    with stages.stage(f"attacking {name}", units=units, cost=_evaluation_cost(trial)) as advance:
        evaluation = evaluate(
            model,
            dataset.test.first(min(trial.num_clean, len(dataset.test))),
            attacks={plan.attack: ATTACKS[plan.attack](**plan.settings) for plan in trial.attacks},
            eps={plan.attack: plan.eps for plan in trial.attacks},
            norm=trial.attacks[0].norm if trial.attacks else "linf",
            num_images={plan.attack: plan.num_images for plan in trial.attacks},
            num_examples=trial.num_examples,
            seed=trial.seed,
            on_images=advance,
        )
    result = {
        "model": trial.model,
        "seed": trial.seed,
        "trial": asdict(trial),
        "data_checksum": dataset.checksum,
        "device": str(device),
        "training_seconds": round(float(history["seconds"].sum()), 1) if len(history) else None,
        "evaluation_seconds": round(time.perf_counter() - started, 1),
        **provenance(),
    }
    records.write_trial(folder, evaluation.rows, history, evaluation.examples, result)


def train_from(
    training: Training,
    dataset: Dataset,
    folder: Path,
    *,
    device: torch.device,
    advance: Advance = lambda _: None,
) -> tuple[Classifier, pd.DataFrame]:
    """Build and train the model of a config and write its checkpoint and history to a folder.

    Returns:
        The model in evaluation mode, and the history, one epoch a line.

    Raises:
        UserError: As :func:`nullclass.train.train` and :func:`nullclass.models.build_model` do.
    """
    null_weight = training.nulls.weight if training.nulls is not None else 0.0
    config = TrainConfig(training.recipe, training.seed, training.weight_decay, null_weight)
    with borrowed_stream(training.seed):
        model = build_model(
            training.architecture,
            image_shape=dataset.image_shape,
            num_classes=dataset.num_classes,
            has_null=training.nulls is not None,
            mean=(dataset.mean,),
            std=(dataset.std,),
        ).to(device)
    nulls = None
    if training.nulls is not None:
        nulls = NULL_SOURCES[training.nulls.source](model, **training.nulls.settings)
    make_folder(folder)
    told = 0.0

    def on_step(done: int, steps: int, loss: float) -> None:
        nonlocal told
        images = done / steps * training.recipe.epochs * len(dataset.train)
        advance(images - told)
        told = images

    records_of_epochs = train(
        model,
        dataset.train,
        config,
        nulls=nulls,
        validation=dataset.validation,
        state_folder=folder,
        on_step=on_step,
    )
    history = pd.DataFrame([asdict(record) for record in records_of_epochs])
    records.write_frame(folder / records.HISTORY, history)
    about = {
        "training": asdict(training),
        "training_seconds": round(float(history["seconds"].sum()), 1),
        "data": dataset.name,
        "data_checksum": dataset.checksum,
        "device": str(device),
    }
    save_checkpoint(model, folder, about=about)
    (folder / STATE).unlink(missing_ok=True)
    return model, history


def _write_run(
    study: Study,
    dataset: Dataset,
    folder: Path,
    preset: Preset,
    device: torch.device,
    trials: list[Trial],
) -> None:
    first = trials[0]
    told: dict[str, Any] = {
        "study": study.name,
        "claim": study.claim,
        "preset": preset,
        "models": list(dict.fromkeys(trial.model for trial in trials)),
        "seeds": sorted({trial.seed for trial in trials}),
        "settings": {
            "recipe": asdict(first.training.recipe),
            "validation": first.training.validation,
            "attacks": [asdict(plan) for plan in first.attacks],
            "trainings": {trial.model: asdict(trial.training) for trial in reversed(trials)},
            **study.units,
        },
        **run_origin(dataset, device),
    }
    told["data"]["num_training_images"] = len(dataset.train)
    if (folder / records.RUN).exists():
        before = records.read_info(folder)
        for key in ("study", "preset", "models", "seeds", "settings"):
            _check_same(folder, "run", before.get(key), told[key])
        # Where the files came from may change, what they hold may not.
        found = before.get("data", {}).get("checksum")
        _check_same(folder, "run", found, dataset.checksum)
        return  # what made the run is told already; each trial tells what made it
    write_json(folder / records.RUN, told)


def _is_recorded(place: Path, trial: Trial, dataset: Dataset) -> bool:
    if not records.is_whole(place):
        return False
    result = read_json(place / records.RESULT, "result of a trial")
    _check_same(place, "trial", result.get("trial"), asdict(trial))
    _check_same(place, "trial", result.get("data_checksum"), dataset.checksum)
    return True


def _check_data(training: Training, dataset: Dataset) -> None:
    """A card must not tell of other data than the model saw."""
    num_held_out = 0 if dataset.validation is None else len(dataset.validation)
    if (dataset.name, num_held_out) != (training.dataset, training.validation):
        raise UserError(
            f"the trial wants {training.dataset} with {training.validation} images held out, the "
            f"dataset given is {dataset.name} with {num_held_out}"
        )


def _check_same(folder: Path, what: str, found: Any, wanted: Any) -> None:
    if _plain(found) != _plain(wanted):
        raise UserError(
            f"{folder} holds a {what} with other settings or data: choose another --out, or remove "
            "that folder to start again"
        )


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value))


def _training_cost(training: Training) -> float:
    """Expected cost in float32 passes (forward or backward) over a thousand MNIST images."""
    images = 60 * training.recipe.epochs
    nulls = 0.0 if training.nulls is None else training.recipe.null_fraction
    return images * 3 * (1 + nulls) * (0.6 if training.recipe.precision == "bfloat16" else 1)


def _evaluation_cost(trial: Trial) -> float:
    return trial.num_clean / 1000 + sum(map(_attack_cost, trial.attacks))


def _attack_cost(plan: AttackPlan) -> float:
    # A search attacks few images again at the larger eps, and about nine targets at the first.
    steps = plan.settings.get("num_steps", 0), plan.settings.get("num_target_steps", 0)
    passes = 3.0 * len(plan.eps) if not any(steps) else 4.0 * steps[0] + 24.0 * steps[1]
    return plan.num_images / 1000 * passes


def _cost(trial: Trial) -> float:
    return _training_cost(trial.training) + _evaluation_cost(trial)
