"""A training's config, done: the model built, trained and written; and how it is loaded again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from nullclass.core.errors import UserError
from nullclass.core.files import make_folder
from nullclass.core.progress import Advance
from nullclass.core.provenance import provenance
from nullclass.core.rng import fork_rng
from nullclass.data import Dataset, LabelledImages
from nullclass.experiments.config import ModelSpec, NullPlan, Training
from nullclass.experiments.jobs import place_of
from nullclass.models import Classifier, build_model
from nullclass.nulls import NullSource, make_nulls
from nullclass.rejection import ProvableNull, Threshold, calibrate, with_threshold
from nullclass.results import frames, schema, store
from nullclass.results.null_curve import NullCurve
from nullclass.results.schema import LAST
from nullclass.training.checkpoint import load_checkpoint, save_checkpoint
from nullclass.training.loop import TrainConfig, train
from nullclass.training.robust import make_robust
from nullclass.training.selection import BestCheckpoints


class Trained:
    """A training about to be done: model, null source, selections and settings."""

    def __init__(
        self,
        training: Training,
        dataset: Dataset,
        *,
        device: torch.device,
        start: Classifier | None = None,
        curve: NullCurve | None = None,
    ) -> None:
        """Build everything a training starts from.

        Args:
            training: The config.
            dataset: The data.
            device: Where to train.
            start: The model whose weights to go on from, if the config wants one.
            curve: The null curve, if the null images' plan has it estimated.
        """
        check_data(training, dataset)
        self.training = training
        plan = training.nulls
        self.config = TrainConfig(
            recipe=training.recipe,
            seed=training.seed,
            weight_decay=training.weight_decay,
            null_weight=0.0 if plan is None or plan.weight is None else plan.weight,
            replace_rate=None if plan is None else plan.share,
            robust=make_robust(training.robust.loss, training.robust.settings)
            if training.robust is not None
            else None,
            uniform_targets=training.uniform_targets,
        )
        with fork_rng(training.seed):
            self.model = build_model(
                training.architecture,
                image_shape=dataset.image_shape,
                num_classes=dataset.num_classes,
                has_null=training.has_null,
                num_nulls=dataset.num_classes if training.per_class_null else 1,
                mean=(dataset.mean,),
                std=(dataset.std,),
            ).to(device)
            if self.config.robust is not None:
                first = torch.Generator().manual_seed(training.seed)
                self.config.robust.initialise(self.model, first)
        if start is not None:
            self.model.load_state_dict(start.state_dict())
        self.nulls: NullSource | None = None
        if plan is not None:
            _check_background(plan, dataset)
            estimated = {} if curve is None else {"curve": curve.to_dict()}
            self.nulls = make_nulls(plan.source, plan.settings | estimated, self.model)
        sets = {"test": dataset.test, "held-out": dataset.validation}
        chosen: dict[str, LabelledImages] = {}
        for name in training.selections:
            images = sets.get(name)
            if images is None:
                raise UserError(f"there are no images {name!r} to select on: test or held-out")
            chosen[name] = images
        self.selections = BestCheckpoints(chosen, self.nulls)


def train_from(
    training: Training,
    dataset: Dataset,
    folder: Path,
    *,
    device: torch.device,
    start: Classifier | None = None,
    curve: NullCurve | None = None,
    advance: Advance = lambda _: None,
) -> tuple[Trained, pd.DataFrame]:
    """Build and train the model of a config, going on from the state in a folder if it is there.

    Args:
        training: The config.
        dataset: The data.
        folder: Where the state is kept between epochs; it is left there.
        device: Where to train.
        start: The model whose weights to go on from, if the config wants one.
        curve: The null curve, if the null images' plan has it estimated.
        advance: Told the share of the training that is done since it was last told.

    Returns:
        The trained model with its selections, and the history, one epoch a line.

    Raises:
        UserError: As :func:`nullclass.training.loop.train` and
        :func:`nullclass.models.build_model` do, or
            if the folder cannot be written.
    """
    trained = Trained(training, dataset, device=device, start=start, curve=curve)
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
    about = about_trained(training, history["seconds"].sum(), dataset, device, trained.nulls)
    for name, weights in kept.items():
        model.load_state_dict(weights)
        save_checkpoint(model, folder / name, about=about | {"epoch": epochs[name]})
    model.load_state_dict(last)
    frames.write_frame(folder / schema.HISTORY, history)
    told = {"config": asdict(training), "epochs": epochs, "data_checksum": dataset.checksum}
    store.finalize(folder, told | provenance())
    (folder / schema.STATE).unlink(missing_ok=True)  # last: nothing is ever trained twice


def write_model(
    trained: Trained, history: pd.DataFrame, folder: Path, dataset: Dataset, device: torch.device
) -> None:
    """Write a single model's checkpoint and history into a folder, and drop its state."""
    frames.write_frame(folder / schema.HISTORY, history)
    seconds = history["seconds"].sum()
    about = about_trained(trained.training, seconds, dataset, device, trained.nulls)
    save_checkpoint(trained.model, folder, about=about)
    (folder / schema.STATE).unlink(missing_ok=True)


def about_trained(
    training: Training,
    seconds: float,
    dataset: Dataset,
    device: torch.device,
    nulls: NullSource | None = None,
) -> dict[str, Any]:
    """What a card tells of where its model comes from."""
    return {
        "training": asdict(training),
        "nulls": None if nulls is None else nulls.settings(),  # an estimated curve among them
        "training_seconds": round(float(seconds), 1),
        "data": dataset.name,
        "data_checksum": dataset.checksum,
        "device": str(device),
    }


def load_trained(
    training: Training, selection: str, run_folder: Path, dataset: Dataset, device: torch.device
) -> Classifier:
    """The trained model of a config, from its folder in the run."""
    place = run_folder / place_of(training, dataset.checksum) / selection
    return load_checkpoint(place, device=device)[0]


def load_deployed(
    model_spec: ModelSpec, run_folder: Path, dataset: Dataset, device: torch.device
) -> tuple[Classifier, Threshold | None]:
    """A trained model as it answers, and the threshold it answers by, if it does.

    Raises:
        UserError: Also if a threshold is wanted and the dataset holds no images out for it.
    """
    model = load_trained(model_spec.training, model_spec.selection, run_folder, dataset, device)
    if model_spec.radius is not None:
        return ProvableNull(model, model_spec.radius), None
    if model_spec.null_rate is None:
        return model, None
    if dataset.validation is None:
        raise UserError("a threshold needs held-out images, and the dataset holds none out")
    threshold = calibrate(model, dataset.validation, model_spec.null_rate)
    return with_threshold(model, threshold), threshold


def _check_background(plan: NullPlan, dataset: Dataset) -> None:
    """Refuse to teach that the dataset's own images are null."""
    sources = {plan.source: plan.settings} | plan.settings.get("sources", {})
    named = sources.get("background")
    if named is not None and named.get("dataset", "fashion-mnist") == dataset.name:
        raise UserError(
            f"the background images are {dataset.name}, which is what the model is to learn: name "
            "other data"
        )


def check_data(training: Training, dataset: Dataset) -> None:
    """A card must not tell of other data than the model saw."""
    num_held_out = 0 if dataset.validation is None else len(dataset.validation)
    if (dataset.name, num_held_out) != (training.dataset, training.validation):
        raise UserError(
            f"the trial wants {training.dataset} with {training.validation} images held out, the "
            f"dataset given is {dataset.name} with {num_held_out}"
        )
