"""The state of a training between epochs, for an exact resume."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from nullclass.core.documents import Schema, or_nan
from nullclass.core.errors import DamagedStateError, UserError
from nullclass.core.tensor_files import load_state, save_state, tensor_sha256
from nullclass.models.classifier import Classifier
from nullclass.nulls import NullSource
from nullclass.training.config import TrainConfig
from nullclass.training.selection import BestCheckpoints

_OPTIMIZER = "optimizer."
"""Start of the names of the optimizer's tensors."""


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch. Losses are means over its steps, as the notebook prints them."""

    epoch: int
    """From 1."""
    loss: float
    """Of the clean images; of all images if null images replace some; else the robust loss."""
    null_loss: float
    """NaN without null images."""
    train_accuracy: float
    """Accuracy on the images of ``loss``, each at its own step. With a robust loss, the rate of
    images that are robust at the step's ε (proved, or not fooled)."""
    validation_accuracy: float
    """NaN without validation images."""
    seconds: float
    """Of training alone, without validation and selection."""
    selection_losses: dict[str, float] = field(default_factory=dict)
    """Loss on the images of each selection and the null images made from them."""


class _Epoch(Schema, frozen=True, kw_only=True):
    """An :class:`EpochRecord` in a file, with None for NaN."""

    epoch: int
    loss: float
    null_loss: float | None
    train_accuracy: float
    validation_accuracy: float | None
    seconds: float
    selection_losses: dict[str, float | None]


class _Best(Schema, frozen=True, kw_only=True):
    """The best epoch of a selection; loss None and epoch 0 before the first."""

    loss: float | None
    epoch: int


class _Info(Schema, frozen=True, kw_only=True):
    """What a state holds besides tensors."""

    history: list[_Epoch]
    best: dict[str, _Best]
    optimizer: dict[str, int | float | bool | None]
    """Numbers in the optimizer's state, by index and key."""


@dataclass
class TrainState:
    """All that a later process needs to continue to the same weights."""

    model: Classifier
    optimizer: Optimizer
    scheduler: LRScheduler | None
    """Not saved, but replayed from the history."""
    selections: BestCheckpoints
    generators: Sequence[torch.Generator]
    """The training's own random stream, then those of the data."""
    fingerprint: str
    history: list[EpochRecord] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the state, including torch's global random streams.

        Raises:
            UserError: If the optimizer's state holds more than tensors and numbers.
        """
        tensors = self._tensors()
        numbers: dict[str, float | int | None] = {}
        for index, entry in self.optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                if isinstance(value, Tensor):
                    tensors[f"{_OPTIMIZER}{index}.{key}"] = value
                elif value is None or isinstance(value, int | float):
                    numbers[f"{index}.{key}"] = value
                else:
                    raise UserError(
                        f"the state of {type(self.optimizer).__name__} cannot be saved: train "
                        "without state_folder, or use another optimizer"
                    )
        for name, weights in self.selections.weights.items():
            tensors |= {f"best.{name}.{key}": value for key, value in weights.items()}
        info = _Info(
            history=[_Epoch(**asdict(record)) for record in self.history],
            best={
                name: _Best(loss=loss, epoch=epoch)
                for name, (loss, epoch) in self.selections.best.items()
            },
            optimizer=numbers,
        )
        save_state(path, self.fingerprint, tensors, info)

    def load(self, path: Path) -> None:
        """Restore a saved state, including torch's global random streams.

        Raises:
            DamagedStateError: If the file is damaged.
            StateError: If it belongs to another training.
        """
        device = self.model.mean.device
        info, tensors = load_state(path, self.fingerprint, _Info)
        self._check(path, info, tensors)

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }

        self.history = [_record(epoch) for epoch in info.history]
        self.model.load_state_dict(part("model."))
        for name, best in info.best.items():
            self.selections.best[name] = math.inf if best.loss is None else best.loss, best.epoch
            if best.epoch:
                weights = part(f"best.{name}.")
                self.selections.weights[name] = {key: t.to(device) for key, t in weights.items()}
        self._load_optimizer(part(_OPTIMIZER) | info.optimizer)
        for i, generator in enumerate(self.generators):
            generator.set_state(tensors[f"generator.{i}"])
        torch.set_rng_state(tensors["rng"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng_cuda"], device)

    def _tensors(self) -> dict[str, Tensor]:
        """Return the weights and the states of all random streams."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        for i, generator in enumerate(self.generators):
            tensors[f"generator.{i}"] = generator.get_state()
        tensors["rng"] = torch.get_rng_state()
        device = self.model.mean.device
        if device.type == "cuda":
            tensors["rng_cuda"] = torch.cuda.get_rng_state(device)
        return tensors

    def _check(self, path: Path, info: _Info, tensors: dict[str, Tensor]) -> None:
        """Refuse a state whose tensors are not those of this training."""
        weights, expected = self.model.state_dict(), self._tensors()
        for name, best in info.best.items():
            if best.epoch:
                expected |= {f"best.{name}.{key}": value for key, value in weights.items()}
        others = {name: t for name, t in tensors.items() if not name.startswith(_OPTIMIZER)}
        names = [*info.optimizer, *(n.removeprefix(_OPTIMIZER) for n in tensors.keys() - others)]
        num_parameters = sum(len(group["params"]) for group in self.optimizer.param_groups)
        known = set(map(str, range(num_parameters)))
        if (
            _layout(others) != _layout(expected)
            or info.best.keys() != self.selections.images.keys()
            or not all(name.partition(".")[0] in known for name in names)
        ):
            raise DamagedStateError(
                f"{path} does not hold the tensors of this training: remove it to start again"
            )

    def replay_schedule(self, steps_per_epoch: int) -> None:
        """Bring a new scheduler to where the completed epochs left it."""
        with warnings.catch_warnings(action="ignore"):  # the optimizer has made no step yet
            for record in self.history:
                for _ in range(steps_per_epoch):
                    self.step_scheduler(record.loss)

    def step_scheduler(self, loss: float) -> None:
        """Call the scheduler, if there is one."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(loss)
        elif self.scheduler is not None:
            self.scheduler.step()

    def _load_optimizer(self, values: dict[str, Any]) -> None:
        state: dict[str, Any] = self.optimizer.state_dict() | {"state": {}}
        for name, value in values.items():
            index, _, key = name.partition(".")
            state["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(state)
        # Fused Adam reads a weight and its moments in memory order, so the moments must have the
        # memory layout of the weight.
        for parameter, entry in self.optimizer.state.items():
            for key, value in entry.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    entry[key] = torch.empty_like(parameter.detach()).copy_(value)


def fingerprint(
    model: Classifier,
    data: list[Any],
    config: TrainConfig,
    nulls: NullSource | None,
    selections: BestCheckpoints,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
) -> str:
    """Return a hash of everything that decides the result, so that no other training resumes it."""
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    parts = {
        "config": asdict(replace(config, robust=None, optimizer=None, scheduler=None)),
        "robust": _described(config.robust, "settings"),
        "optimizer": [type(optimizer).__name__, groups],
        "scheduler": _described(scheduler, "state_dict"),
        "nulls": _described(nulls, "settings"),
        "data": data,
        "model": repr(model),
        "initial_weights": {name: tensor_sha256(t) for name, t in model.state_dict().items()},
        "device": model.mean.device.type,
        "selections": {name: data.sha256() for name, data in selections.images.items()},
        "selection_nulls": _described(selections.nulls, "settings"),
    }
    text = json.dumps(parts, default=lambda value: type(value).__name__)
    return hashlib.sha256(text.encode()).hexdigest()


def _record(epoch: _Epoch) -> EpochRecord:
    values = msgspec.structs.asdict(epoch)
    losses = {name: or_nan(loss) for name, loss in epoch.selection_losses.items()}
    numbers = {name: or_nan(values[name]) for name in ("null_loss", "validation_accuracy")}
    return EpochRecord(**values | numbers | {"selection_losses": losses})


def _layout(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _described(value: object, method: str) -> list[Any] | None:
    return None if value is None else [type(value).__name__, getattr(value, method)()]
