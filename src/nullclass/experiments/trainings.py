"""Trains and writes the model of a training config."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.core.files import make_folder, remove
from nullclass.core.progress import Advance
from nullclass.core.rng import fork_rng
from nullclass.data import Dataset, LabelledImages
from nullclass.experiments.config import NullPlan, Training
from nullclass.models import Classifier, build_model
from nullclass.nulls import NullSource, make_nulls
from nullclass.results import frames, schema
from nullclass.results.null_curve import NullCurve
from nullclass.results.schema import LAST
from nullclass.training.card import Origin
from nullclass.training.checkpoint import save_checkpoint
from nullclass.training.config import TrainConfig
from nullclass.training.loop import train
from nullclass.training.queries import num_own
from nullclass.training.robust import make_robust
from nullclass.training.selection import BestCheckpoints
from nullclass.training.substitutes import query_substitute


class Trainer:
    """Model, null source and selections of a training config.

    Args:
        training: The config.
        dataset: The data.
        device: Device to train on.
        start: Model with the initial weights, if the config has a ``start``.
        curve: The null curve, if the config has one estimated.

    Raises:
        UserError: If the data are not those of the config, or no such model, null source or loss
            exists.
    """

    def __init__(
        self,
        training: Training,
        dataset: Dataset,
        *,
        device: torch.device,
        start: Classifier | None = None,
        curve: NullCurve | None = None,
    ) -> None:
        check_data(training, dataset)
        self.training, self.dataset, self.device = training, dataset, device
        plan, robust = training.nulls, training.robust
        self.config = TrainConfig(
            recipe=training.recipe,
            seed=training.seed,
            weight_decay=training.weight_decay,
            null_weight=0.0 if plan is None or plan.weight is None else plan.weight,
            replace_rate=None if plan is None else plan.replace_rate,
            robust=None if robust is None else make_robust(robust.loss, robust.settings),
            uniform_targets=training.uniform_targets,
        )
        with fork_rng(training.seed):
            self.model = build_model(
                training.architecture,
                image_shape=dataset.image_shape,
                num_classes=dataset.num_classes,
                has_null=training.has_null,
                num_nulls=dataset.num_classes if training.per_class_null else 1,
                mean=dataset.mean,
                std=dataset.std,
            ).to(device)
        if start is not None:
            self.model.load_state_dict(start.state_dict())
        self.nulls: NullSource | None = None
        if plan is not None:
            _check_background(plan, dataset)
            estimated = {} if curve is None else {"curve": curve.to_dict()}
            self.nulls = make_nulls(plan.source, plan.settings | estimated, self.model)
        sets = {"test": dataset.test, "held-out": dataset.validation}
        selected: dict[str, LabelledImages] = {}
        for name in training.selections:
            images = sets.get(name)
            if images is None:
                raise UserError(f"there are no images {name!r} to select on: test or held-out")
            selected[name] = images
        self.selections = BestCheckpoints(selected, self.nulls)

    def train(self, folder: Path, advance: Advance = lambda _: None) -> pd.DataFrame:
        """Train the model, resuming from the state in a folder if there is one.

        Args:
            folder: Keeps the state after every epoch.
            advance: Called with the share of the training done since the last call.

        Returns:
            One row per epoch.

        Raises:
            UserError: As :func:`nullclass.training.loop.train`, or if the folder cannot be written.
        """
        make_folder(folder)
        reported = 0.0

        def on_step(step: int, num_steps: int, loss: float) -> None:
            nonlocal reported
            advance(step / num_steps - reported)
            reported = step / num_steps

        epochs = train(
            self.model,
            self.dataset.training_images(),
            self.config,
            nulls=self.nulls,
            validation=self.dataset.validation,
            selections=self.selections,
            state_folder=folder,
            on_step=on_step,
        )
        rows = []
        for epoch in map(asdict, epochs):
            losses = epoch.pop("selection_losses")
            rows.append(epoch | {f"{name}_loss": loss for name, loss in losses.items()})
        return pd.DataFrame(rows)

    def write(self, history: pd.DataFrame, folder: Path) -> None:
        """Write the checkpoint of the last epoch and the history, and remove the state."""
        frames.write_frame(folder / schema.HISTORY, history)
        save_checkpoint(self.model, folder, origin=self.origin(history))
        remove(folder / schema.STATE)

    def write_selected(self, history: pd.DataFrame, folder: Path) -> dict[str, int]:
        """Write the checkpoint of each selection and the history; return the epoch of each."""
        last = {key: value.clone() for key, value in self.model.state_dict().items()}
        epochs, weights = {LAST: len(history)}, {LAST: last}
        if self.selections.images:
            epochs = {name: epoch for name, (_, epoch) in self.selections.best.items()}
            weights = self.selections.weights
        for name in weights:
            self.model.load_state_dict(weights[name])
            selected_on = self.training.selected_on(name)
            origin = self.origin(history, epoch=epochs[name], selected_on=selected_on)
            save_checkpoint(self.model, folder / name, origin=origin)
        self.model.load_state_dict(last)
        frames.write_frame(folder / schema.HISTORY, history)
        return epochs

    def origin(self, history: pd.DataFrame, **more: Any) -> Origin:
        """Return the part of the model's card that describes its training."""
        seconds = float(history["seconds"].sum())
        nulls = None if self.nulls is None else self.nulls.settings()
        return _origin(self.training, seconds, self.dataset, self.device, nulls=nulls, **more)


def train_substitute(
    training: Training, target: Classifier, dataset: Dataset, folder: Path, device: torch.device
) -> None:
    """Train a substitute on a model's answers and write it, resuming after its last queries.

    Raises:
        UserError: If the data are not those of the config, or the folder cannot be written.
    """
    assert training.queries is not None
    check_data(training, dataset)
    started = time.perf_counter()
    substitute, rounds = query_substitute(
        target,
        dataset.test.subset(slice(-num_own(len(dataset.test)), None)),
        training.queries.plan,
        architecture=training.architecture,
        recipe=training.recipe,
        seed=training.seed,
        device=device,
        state_folder=folder,
    )
    origin = _origin(training, time.perf_counter() - started, dataset, device)
    frames.write_frame(folder / schema.QUERIES, pd.DataFrame([asdict(entry) for entry in rounds]))
    save_checkpoint(substitute, folder / LAST, origin=origin)


def _origin(
    training: Training, seconds: float, dataset: Dataset, device: torch.device, **more: Any
) -> Origin:
    """Return the part of a model's card that describes a training."""
    return Origin(
        data=dataset.name,
        data_checksum=dataset.checksum,
        num_held_out=training.validation,
        training=json_values(asdict(training)),
        training_seconds=round(seconds, 1),
        device=str(device),
        **more,
    )


def check_data(training: Training, dataset: Dataset) -> None:
    """Raise UserError if the dataset is not that of the config."""
    num_held_out = 0 if dataset.validation is None else len(dataset.validation)
    if (dataset.name, num_held_out) != (training.dataset, training.validation):
        raise UserError(
            f"the training needs {training.dataset} with {training.validation} images held out, "
            f"but the dataset is {dataset.name} with {num_held_out}"
        )


def _check_background(plan: NullPlan, dataset: Dataset) -> None:
    """Raise UserError if the dataset's own images would be null."""
    sources = {plan.source: plan.settings} | plan.settings.get("sources", {})
    background = sources.get("background")
    if background is not None and background.get("dataset", "fashion-mnist") == dataset.name:
        raise UserError(
            f"the background images are {dataset.name}, the data that the model learns: name "
            "other data"
        )
