"""One job, done: a model trained, or a trained model attacked and recorded."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nullclass import records
from nullclass.attacks import ATTACKS, Attack
from nullclass.attacks.base import WantsImages
from nullclass.data import Dataset, LabelledImages
from nullclass.errors import StateError, UserError
from nullclass.evaluate import findings_of
from nullclass.files import make_folder
from nullclass.jobs import place_of
from nullclass.models import Classifier, build_model
from nullclass.models.checkpoint import load_checkpoint, save_checkpoint
from nullclass.nulls import NullSource, make_nulls
from nullclass.progress import Advance
from nullclass.provenance import provenance
from nullclass.randomness import borrowed_stream
from nullclass.scoring import SELF, Scored, score_attack, score_clean
from nullclass.selection import Selections
from nullclass.studies.base import LAST, AttackPlan, Training, Trial
from nullclass.tensor_files import save_tensors
from nullclass.thresholds import find_thresholds
from nullclass.train import TrainConfig, train


def do(
    config: Training | Trial,
    run_folder: Path,
    dataset: Dataset,
    *,
    device: torch.device,
    advance: Advance = lambda _: None,
) -> None:
    """Do a job and write its folder, unless it is there.

    Args:
        config: The training or trial.
        run_folder: The run's folder; what the job needs is there already.
        dataset: The data.
        device: Where to compute.
        advance: Told the share of the job that is done since it was last told.

    Raises:
        UserError: If the data are not those of the config, something needed is missing or damaged,
            the training diverges, or the folder cannot be written.
    """
    folder = run_folder / place_of(config, dataset.checksum)
    if records.is_whole(folder):
        return
    make_folder(folder)
    records.unseal(folder)
    records.clear_leftovers(folder)
    if isinstance(config, Training):
        _do_training(config, run_folder, folder, dataset, device, advance)
    else:
        _do_trial(config, run_folder, folder, dataset, device, advance)


class Trained:
    """A training about to be done: model, null source, selections and settings."""

    def __init__(
        self,
        training: Training,
        dataset: Dataset,
        *,
        device: torch.device,
        start: Classifier | None = None,
    ) -> None:
        """Build everything a training starts from.

        Args:
            training: The config.
            dataset: The data.
            device: Where to train.
            start: The model whose weights to go on from, if the config wants one.
        """
        _check_data(training, dataset)
        self.training = training
        plan = training.nulls
        self.config = TrainConfig(
            recipe=training.recipe,
            seed=training.seed,
            weight_decay=training.weight_decay,
            null_weight=0.0 if plan is None or plan.weight is None else plan.weight,
            null_share=None if plan is None else plan.share,
        )
        with borrowed_stream(training.seed):
            self.model = build_model(
                training.architecture,
                image_shape=dataset.image_shape,
                num_classes=dataset.num_classes,
                has_null=training.has_null,
                mean=(dataset.mean,),
                std=(dataset.std,),
            ).to(device)
        if start is not None:
            self.model.load_state_dict(start.state_dict())
        self.nulls: NullSource | None = None
        if plan is not None:
            self.nulls = make_nulls(plan.source, plan.settings, self.model)
        sets = {"test": dataset.test, "held-out": dataset.validation}
        chosen: dict[str, LabelledImages] = {}
        for name in training.selections:
            images = sets.get(name)
            if images is None:
                raise UserError(f"there are no images {name!r} to select on: test or held-out")
            chosen[name] = images
        self.selections = Selections(chosen, self.nulls)


def train_from(
    training: Training,
    dataset: Dataset,
    folder: Path,
    *,
    device: torch.device,
    start: Classifier | None = None,
    advance: Advance = lambda _: None,
) -> tuple[Trained, pd.DataFrame]:
    """Build and train the model of a config, going on from the state in a folder if it is there.

    Args:
        training: The config.
        dataset: The data.
        folder: Where the state is kept between epochs; it is left there.
        device: Where to train.
        start: The model whose weights to go on from, if the config wants one.
        advance: Told the share of the training that is done since it was last told.

    Returns:
        The trained model with its selections, and the history, one epoch a line.

    Raises:
        UserError: As :func:`nullclass.train.train` and :func:`nullclass.models.build_model` do, or
            if the folder cannot be written.
    """
    trained = Trained(training, dataset, device=device, start=start)
    make_folder(folder)
    told = 0.0

    def on_step(done: int, steps: int, loss: float) -> None:
        nonlocal told
        advance(done / steps - told)
        told = done / steps

    epochs = train(
        trained.model,
        dataset.train,
        trained.config,
        nulls=trained.nulls,
        validation=dataset.validation,
        selections=trained.selections,
        state_folder=folder,
        on_step=on_step,
    )
    return trained, history_of([asdict(epoch) for epoch in epochs])


def history_of(epochs: list[dict[str, Any]]) -> pd.DataFrame:
    """Epoch records as a table, the selections' losses in columns of their own."""
    lines = []
    for epoch in epochs:
        losses = epoch.pop("selection_losses")
        lines.append(epoch | {f"{name}_loss": loss for name, loss in losses.items()})
    return pd.DataFrame(lines)


def write_training(
    trained: Trained, history: pd.DataFrame, folder: Path, dataset: Dataset, device: torch.device
) -> None:
    """Write a training's checkpoints and history, ``result.json`` last, and drop its state."""
    training, model, selections = trained.training, trained.model, trained.selections
    last = {key: value.clone() for key, value in model.state_dict().items()}
    epochs, kept = {LAST: len(history)}, {LAST: last}
    if selections.images:
        epochs = {name: epoch for name, (_, epoch) in selections.best.items()}
        kept = selections.weights
    about = _about(training, history, dataset, device)
    for name, weights in kept.items():
        model.load_state_dict(weights)
        save_checkpoint(model, folder / name, about=about | {"epoch": epochs[name]})
    model.load_state_dict(last)
    records.write_frame(folder / records.HISTORY, history)
    told = {"config": asdict(training), "epochs": epochs, "data_checksum": dataset.checksum}
    records.seal(folder, told | provenance())
    (folder / records.STATE).unlink(missing_ok=True)  # last: nothing is ever trained twice


def write_model(
    trained: Trained, history: pd.DataFrame, folder: Path, dataset: Dataset, device: torch.device
) -> None:
    """Write a single model's checkpoint and history into a folder, and drop its state."""
    records.write_frame(folder / records.HISTORY, history)
    about = _about(trained.training, history, dataset, device)
    save_checkpoint(trained.model, folder, about=about)
    (folder / records.STATE).unlink(missing_ok=True)


def _about(
    training: Training, history: pd.DataFrame, dataset: Dataset, device: torch.device
) -> dict[str, Any]:
    """What a card tells of where its model comes from."""
    return {
        "training": asdict(training),
        "training_seconds": round(float(history["seconds"].sum()), 1),
        "data": dataset.name,
        "data_checksum": dataset.checksum,
        "device": str(device),
    }


def _do_training(
    training: Training,
    run_folder: Path,
    folder: Path,
    dataset: Dataset,
    device: torch.device,
    advance: Advance,
) -> None:
    start = None
    if training.start is not None:
        start = load_trained(training.start, LAST, run_folder, dataset, device)
    try:
        trained, history = train_from(
            training, dataset, folder, device=device, start=start, advance=advance
        )
    except StateError:  # begun on another device, or cut short: the folder says what is wanted
        (folder / records.STATE).unlink()
        trained, history = train_from(
            training, dataset, folder, device=device, start=start, advance=advance
        )
    write_training(trained, history, folder, dataset, device)


def load_trained(
    training: Training, selection: str, run_folder: Path, dataset: Dataset, device: torch.device
) -> Classifier:
    """The trained model of a config, from its folder in the run."""
    place = run_folder / place_of(training, dataset.checksum) / selection
    return load_checkpoint(place, device=device)[0]


def _do_trial(
    trial: Trial,
    run_folder: Path,
    folder: Path,
    dataset: Dataset,
    device: torch.device,
    advance: Advance,
) -> None:
    started = time.perf_counter()
    model = load_trained(trial.training, trial.selection, run_folder, dataset, device)
    source = None
    if trial.source is not None:
        of = trial.source
        source = load_trained(of.training, of.selection, run_folder, dataset, device)
    chosen, thresholds = _images_to_attack(trial, model, run_folder, folder, dataset)
    if trial.decision_grid:
        _write_decisions(model, trial.decision_grid, folder, device)
    units = trial.num_clean + sum(_num_units(plan, len(chosen)) for plan in trial.attacks)

    def on_images(count: int) -> None:
        advance(count / units)

    clean = dataset.test.first(min(trial.num_clean, len(dataset.test)))
    norm = trial.attacks[0].norm if trial.attacks else "linf"  # they agree
    clean_rows = score_clean(model, clean, norm=norm, on_images=on_images)
    done: list[Scored] = []
    own: dict[str, Attack] = {}
    for plan in trial.attacks:
        part = slice(0, min(plan.num_images, len(chosen)))
        attack = ATTACKS[plan.attack](**plan.settings)
        if isinstance(attack, WantsImages):
            attack = attack.given(clean)
        if not plan.is_transfer:
            own[plan.name] = attack
        done.append(
            score_attack(
                model,
                dataset.test,
                chosen[part],
                plan.name,
                attack,
                plan.eps or (plan.factor * thresholds[part]).clamp(max=1),
                norm=norm,
                source=source if plan.is_transfer else None,
                made_on=trial.source.model if plan.is_transfer and trial.source else SELF,
                num_examples=plan.num_examples,
                seed=trial.seed,
                on_images=on_images,
            )
        )
    about = {
        "num_classes": model.num_classes,
        "norm": norm,
        "data": dataset.name,
        "threshold": None,
        "selected_on": None if trial.selection == LAST else trial.selection,
    }
    findings = findings_of(
        model,
        dataset.test,
        clean_rows,
        done,
        own,
        about,
        checks=trial.is_checked,
        seed=trial.seed,
    )
    result = {
        "model": trial.model,
        "seed": trial.seed,
        "selection": trial.selection,
        "config": asdict(trial),
        "trained_in": place_of(trial.training, dataset.checksum),
        "data_checksum": dataset.checksum,
        "device": str(device),
        "evaluation_seconds": round(time.perf_counter() - started, 1),
        **provenance(),
    }
    records.write_trial(folder, findings, result)


def _num_units(plan: AttackPlan, num_images: int) -> int:
    return min(plan.num_images, num_images) * max(len(plan.eps), 1)


def _images_to_attack(
    trial: Trial, model: Classifier, run_folder: Path, folder: Path, dataset: Dataset
) -> tuple[Tensor, Tensor]:
    """Positions in the test set, and thresholds in pixel units (none without a search)."""
    if trial.thresholds is not None:
        plan = trial.thresholds
        chosen, thresholds = find_thresholds(
            model, dataset.test, first_image=plan.first_image, num_images=plan.num_images
        )
        # All digits, so that who reads the file attacks at the very same eps.
        table = pd.DataFrame({"image": chosen.numpy(), "threshold": thresholds.double().numpy()})
        records.write_frame(folder / records.THRESHOLDS, table, float_format="%.9g")
        return chosen, thresholds
    if trial.images_from is not None:
        of = run_folder / place_of(trial.images_from, dataset.checksum)
        table = records.read_trial(of).thresholds
        images = torch.tensor(table["image"].to_numpy(dtype="int64"))
        return images, torch.tensor(table["threshold"].to_numpy(dtype="float32"))
    return torch.arange(len(dataset.test)), torch.empty(0)


@torch.no_grad()
def _write_decisions(model: Classifier, side: int, folder: Path, device: torch.device) -> None:
    """Ask the model about a grid over the unit cube, whose axes are the three pixels."""
    axis = torch.linspace(0, 1, side)
    grid = torch.cartesian_prod(axis, axis, axis).view(-1, 1, 1, 3)
    answers = torch.cat([model.predict(part.to(device)).cpu() for part in grid.split(8192)])
    cube = answers.view(side, side, side).to(torch.int8)
    save_tensors(folder / records.DECISIONS, {"predictions": cube})


def _check_data(training: Training, dataset: Dataset) -> None:
    """A card must not tell of other data than the model saw."""
    num_held_out = 0 if dataset.validation is None else len(dataset.validation)
    if (dataset.name, num_held_out) != (training.dataset, training.validation):
        raise UserError(
            f"the trial wants {training.dataset} with {training.validation} images held out, the "
            f"dataset given is {dataset.name} with {num_held_out}"
        )
