"""Data + null images + model -> trained model. One loop for every study, resumable.

What one step does, and how null images enter it, is in :mod:`nullclass.training.steps`.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nullclass.core.devices import supports_bfloat16
from nullclass.core.errors import StateError, UserError
from nullclass.core.rng import fork_rng
from nullclass.core.tensor_files import save_tensors
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.data.augment import jittered
from nullclass.models.classifier import Classifier
from nullclass.models.dropout import scaled_dropout
from nullclass.nulls import NullSource
from nullclass.results.schema import STATE
from nullclass.training.recipes import FAST, Recipe
from nullclass.training.robust.base import RobustLoss, StepLoss
from nullclass.training.selection import BestCheckpoints
from nullclass.training.steps import (
    Precision,
    StepLosses,
    step_append_nulls,
    step_replace_with_nulls,
    step_robust,
)

OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True)
class TrainConfig:
    """What, together with the model's first weights and the data, decides the result."""

    recipe: Recipe = FAST["notebook"]
    """Batches, epochs, schedule, precision."""
    seed: int = 0
    """Seed of the order of images, of dropout and of the null images."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient (Adam's ``weight_decay``)."""
    null_weight: float = 1 / 11
    """Weight of the null loss (alpha in the notebook), for null images beside each batch."""
    replace_rate: float | None = None
    """With a number in [0, 1), null images enter within each batch, in the place of
    Binomial(batch, replace_rate) of its images, and ``null_weight`` is not used."""
    robust: RobustLoss | None = None
    """Trained on instead of the clean images' loss; computed in float32 whatever the precision."""
    uniform_targets: bool = False
    """Trains a model without a null class all the same: null's share of a target is spread evenly
    over the classes, for a threshold to refuse (:func:`nullclass.core.losses.null_targets`)."""

    def __post_init__(self) -> None:
        """Refuse weights, shares and seeds that make no sense."""
        if self.replace_rate is not None and not 0 <= self.replace_rate < 1:
            raise UserError(f"the share of null images must be in [0, 1), not {self.replace_rate}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"the seed must be in 0 … 2**63 - 1, not {self.seed}")
        if not 0 <= self.weight_decay < math.inf or not 0 <= self.null_weight < math.inf:
            raise UserError(
                f"weight decay {self.weight_decay} and null weight {self.null_weight} "
                "must be finite and not negative"
            )


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did. Losses are means over its steps, as the notebook prints them."""

    epoch: int
    loss: float
    """Of the clean images; with null images within the batches, of all; else the robust loss."""
    null_loss: float
    """NaN without null images."""
    train_accuracy: float
    """Share of the images that ``loss`` is about right at the moment they were trained on; with a
    robust loss, that stood at the ε of that step (proved, or not fooled)."""
    validation_accuracy: float
    """NaN without validation images."""
    seconds: float
    """Of training alone, without validation and selection."""
    selection_losses: dict[str, float] = field(default_factory=dict)
    """Loss on the images of each selection, null images mixed in."""


@dataclass
class State:
    """All that a later process needs to go on as if there had been no pause."""

    model: Classifier
    optimizer: torch.optim.Adam
    generator: torch.Generator
    fingerprint: str
    selections: BestCheckpoints
    history: list[EpochRecord] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it, torch's global streams included."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in entry.items()}
        tensors["stream"] = torch.get_rng_state()
        tensors["generator"] = self.generator.get_state()
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            tensors["cuda_stream"] = torch.cuda.get_rng_state(device)
        for selection, weights in self.selections.weights.items():
            tensors |= {f"best.{selection}.{k}": v for k, v in weights.items()}
        metadata = {
            "fingerprint": self.fingerprint,
            "history": json.dumps([asdict(record) for record in self.history]),
            "best": json.dumps(self.selections.best),
        }
        save_tensors(path, tensors, metadata)

    def load(self, path: Path) -> None:
        """Go back to what was written, torch's global streams included.

        Raises:
            UserError: If the file is damaged or belongs to another training.
        """
        device = next(self.model.parameters()).device
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise StateError(
                f"{path} is damaged ({error}): remove it to start the training again"
            ) from None
        if metadata.get("fingerprint") != self.fingerprint:
            raise StateError(
                f"{path} belongs to a training with other settings or data: choose another output "
                "folder, or remove that file to start again"
            )
        self.history = [EpochRecord(**record) for record in json.loads(metadata["history"])]
        self.model.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
        self.selections.best = {k: tuple(v) for k, v in json.loads(metadata["best"]).items()}
        for selection in self.selections.images:
            prefix = f"best.{selection}."
            self.selections.weights[selection] = {
                k.removeprefix(prefix): v.to(device)
                for k, v in tensors.items()
                if k.startswith(prefix)
            }
        state = self.optimizer.state_dict()
        state["state"] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, key = name.split(".")
                state["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(state)
        # Fused Adam walks a weight and its moments side by side in memory, so that moments in
        # another layout than their weight's would be given to the wrong entries.
        for parameter, entry in self.optimizer.state.items():
            for key in ("exp_avg", "exp_avg_sq"):
                entry[key] = torch.empty_like(parameter.detach()).copy_(entry[key])
        torch.set_rng_state(tensors["stream"])
        self.generator.set_state(tensors["generator"])
        if device.type == "cuda" and "cuda_stream" in tensors:
            torch.cuda.set_rng_state(tensors["cuda_stream"], device)


def train(
    model: Classifier,
    data: LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    config: TrainConfig | None = None,
    *,
    nulls: NullSource | None = None,
    validation: LabelledImages | None = None,
    selections: BestCheckpoints | None = None,
    state_folder: Path | str | None = None,
    on_step: OnStep | None = None,
) -> list[EpochRecord]:
    """Train a model in place.

    On a CPU the same seed and number of threads give the same weights, bit for bit. With
    ``state_folder`` everything needed to go on is written there after every epoch, and the
    same call made again goes on from the last whole epoch to the same weights.

    Args:
        model: The model, on the device to train on.
        data: Clean images in [0,1] with labels: tensors, a loader, or :class:`LabelledImages`; a
            label of -1 is a null image of one's own. A loader is read once, into memory: its
            random transforms are drawn once, and one that shuffles cannot be resumed.
        config: Recipe, seed and loss weights; unless given, the fast recipe with seed 0.
        nulls: Source of null images made from each batch, if any.
        validation: Images to measure after every epoch; nothing is selected on them.
        selections: Measures every epoch and keeps the weights of the best; the model itself ends
            with the last epoch's.
        state_folder: Where to keep the state between epochs.
        on_step: Called with (steps done, steps in all, loss) after every step.

    Returns:
        One record an epoch.

    Raises:
        UserError: If the loss stops being finite or the model learned nothing, if null images are
            asked for from a model without a null logit, or if ``state_folder`` holds the state
            of another training.
    """
    config = TrainConfig() if config is None else config
    data = tensors_or_loader(data)
    recipe = config.recipe
    selections = BestCheckpoints({}, None) if selections is None else selections
    state = begin(model, data, config, nulls, selections)
    num_steps = steps_per_epoch(len(data), config.recipe)
    robust = None if config.robust is None else config.robust.bind(model)
    with fork_rng(config.seed), scaled_dropout(model, recipe.dropout), learning_stem(model):
        path = Path(state_folder) / STATE if state_folder is not None else None
        if path is not None and path.exists():
            state.load(path)
        first_step = len(state.history) * num_steps
        if on_step is not None and first_step:
            on_step(first_step, recipe.epochs * num_steps, state.history[-1].loss)
        while len(state.history) < recipe.epochs:
            for name in frozen_names(model, recipe, len(state.history)):
                model.get_parameter(name).requires_grad_(False)
            record = _epoch(state, data, config, nulls, robust, validation, on_step)
            check_weights(model, record.epoch, recipe)
            state.history.append(record)
            # The last state is kept too: whoever asked for it removes it with the weights safe.
            if path is not None:
                state.save(path)
    check_learned(model, state.history[-1].loss, num_steps, recipe)
    model.eval()
    return state.history


def begin(
    model: Classifier,
    data: LabelledImages,
    config: TrainConfig,
    nulls: NullSource | None,
    selections: BestCheckpoints,
) -> State:
    """The state before the first step; raises as :func:`train` does."""
    _check_labels(model, data)
    if config.robust is not None and (nulls is not None or int(data.labels.min()) < 0):
        raise UserError("a robust loss takes no null images: train with one or the other")
    if nulls is not None:
        _check_nulls(model, nulls, config)
    selections.forget()
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(
        model.parameters(),
        config.recipe.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    mark = fingerprint(model, data, config, nulls, selections)
    return State(model, optimizer, generator, mark, selections)


def frozen_names(model: Classifier, recipe: Recipe, epochs_done: int) -> list[str]:
    """Names of the parameters that no longer learn: the first layer's, after so many epochs."""
    if recipe.stem_epochs is None or epochs_done < recipe.stem_epochs:
        return []
    names = [name for name, _ in model.named_parameters()]
    return [name for name in names if name.rpartition(".")[0] == names[0].rpartition(".")[0]]


@contextmanager
def learning_stem(model: Classifier) -> Iterator[None]:
    """Let the parameters learn again that did, whatever is frozen inside the block."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def check_weights(model: Classifier, epoch: int, recipe: Recipe) -> None:
    """Refuse, after an epoch, weights that are not finite."""
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise UserError(
            f"training diverged: weights are not finite after epoch {epoch}; lower the learning "
            f"rate ({recipe.learning_rate:g})"
        )


def check_learned(model: Classifier, loss: float, num_steps: int, recipe: Recipe) -> None:
    """Refuse, after all epochs, a loss with not one bit learned: a broken run, not a result."""
    if loss >= math.log(model.num_classes) and num_steps * recipe.epochs > 50:
        raise UserError(
            f"the model learned nothing: its loss is still {loss:.2f}, that of guessing among "
            f"{model.num_classes} classes; lower the learning rate ({recipe.learning_rate:g}) or "
            "look at the images, and start in another folder"
        )


def _check_labels(model: Classifier, data: LabelledImages) -> None:
    lowest, highest = int(data.labels.min()), int(data.labels.max())
    if highest >= model.num_classes:
        raise UserError(
            f"there is a label {highest}, but the model has the classes 0 to "
            f"{model.num_classes - 1}; null is the label -1"
        )
    if lowest < 0 and model.num_nulls != 1:
        raise UserError(
            "training labels of -1 need a model with one null logit: build it with has_null=True"
        )


def _check_nulls(model: Classifier, nulls: NullSource, config: TrainConfig) -> None:
    """Refuse null images that the model has no place for."""
    if not model.has_null and not config.uniform_targets:
        raise UserError(
            "null images need a model with a null class: build it with has_null=True, or say "
            "spreads_null to refuse by a threshold later"
        )
    if model.has_null and config.uniform_targets:
        raise UserError("spreads_null is for models without a null class: this one has one")
    if model.num_nulls not in (0, 1, model.num_classes):
        raise UserError(
            f"null images need one null logit or one a class ({model.num_classes}), and the model "
            f"has {model.num_nulls}"
        )
    if config.replace_rate is not None and (nulls.is_soft or model.num_nulls != 1):
        raise UserError(
            "null images within the batch need a null class of one logit and targets that are all "
            "null: give null_weight instead of replace_rate"
        )


def steps_per_epoch(num_images: int, recipe: Recipe) -> int:
    """How many batches an epoch has; a last one of less than half the size is left out.

    It would be noise, and could hold too few classes to make null images from.
    """
    num_steps, rest = divmod(num_images, recipe.batch_size)
    return max(1, num_steps + int(2 * rest >= recipe.batch_size))


def _epoch(
    state: State,
    data: LabelledImages,
    config: TrainConfig,
    nulls: NullSource | None,
    robust: StepLoss | None,
    validation: LabelledImages | None,
    on_step: OnStep | None,
) -> EpochRecord:
    recipe, model, optimizer = config.recipe, state.model, state.optimizer
    device = next(model.parameters()).device
    precision = precision_of(recipe, device)
    epoch, num_steps = len(state.history), steps_per_epoch(len(data), config.recipe)
    order = torch.randperm(len(data), generator=state.generator)
    seen: list[StepLosses] = []
    started = time.perf_counter()
    model.train()
    for step in range(num_steps):
        done = epoch * num_steps + step
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, done / (recipe.epochs * num_steps))
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        images, labels = (tensor.to(device) for tensor in data.batch(chosen))
        if recipe.jitter:
            images = jittered(images, recipe.jitter, state.generator)
        optimizer.zero_grad()
        if robust is not None:
            progress = done / (recipe.epochs * num_steps)
            losses = step_robust(robust, images, labels, state.generator, progress)
        elif config.replace_rate is None:
            losses = step_append_nulls(
                model,
                images,
                labels,
                nulls,
                state.generator,
                precision,
                config.null_weight,
                recipe.nulls_per_image,
            )
        else:
            losses = step_replace_with_nulls(
                model, images, labels, nulls, state.generator, precision, config.replace_rate
            )
        is_finite = math.isfinite(losses.loss) and not math.isinf(losses.null_loss)
        if not is_finite or (
            config.replace_rate is None and nulls and math.isnan(losses.null_loss)
        ):
            raise UserError(
                f"training diverged: the loss is {losses.loss} (null loss {losses.null_loss}) at "
                f"step {step + 1} of epoch {epoch + 1}; lower the learning rate "
                f"({recipe.learning_rate:g})"
            )
        optimizer.step()
        seen.append(losses)
        if on_step is not None:
            on_step(done + 1, recipe.epochs * num_steps, losses.loss)
    seconds = time.perf_counter() - started
    null_losses = [losses.null_loss for losses in seen if not math.isnan(losses.null_loss)]
    selections = state.selections
    return EpochRecord(
        epoch=epoch + 1,
        loss=statistics.fmean(losses.loss for losses in seen),
        null_loss=statistics.fmean(null_losses) if null_losses else math.nan,
        train_accuracy=sum(losses.num_correct for losses in seen)
        / sum(losses.num_judged for losses in seen),
        validation_accuracy=accuracy(model, validation, device) if validation else math.nan,
        seconds=seconds,
        selection_losses=selections.look(model, epoch + 1, precision)
        if is_candidate(recipe, epoch + 1)
        else {},
    )


def is_candidate(recipe: Recipe, epoch: int) -> bool:
    """Whether the weights after that epoch, counted from 1, may be selected."""
    return recipe.schedule == "constant" or epoch == recipe.epochs


def precision_of(recipe: Recipe, device: torch.device) -> Precision:
    """Maker of the context in which a recipe's layers run."""
    is_reduced = recipe.precision == "bfloat16" and supports_bfloat16(device)
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=is_reduced)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The step size at ``progress`` in [0, 1) of all steps; never quite zero."""
    return recipe.learning_rate * _schedule(recipe, progress)


def _schedule(recipe: Recipe, progress: float) -> float:
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "late-cosine":
        fallen = max(0.0, (progress - 0.4) / 0.6)
        return max(min(progress / 0.01, (1 + math.cos(math.pi * fallen)) / 2), 1e-3)
    return max(min(progress / 0.2, (1 - progress) / 0.8), 1e-3)


@torch.no_grad()
def accuracy(model: Classifier, data: LabelledImages, device: torch.device) -> float:
    """Share of the images that the model, put into evaluation mode, gets right."""
    model.eval()
    num_correct = 0
    for indices in torch.arange(len(data)).split(500):
        images, labels = data.batch(indices)
        num_correct += int((model.predict(images.to(device)).cpu() == labels.cpu()).sum())
    return num_correct / len(data)


def fingerprint(
    model: Classifier,
    data: LabelledImages,
    config: TrainConfig,
    nulls: NullSource | None,
    selections: BestCheckpoints,
) -> str:
    """A hash of everything that decides the result, so that a state is never misused."""
    told = {
        "config": asdict(config),
        "robust": None if config.robust is None else type(config.robust).__name__,
        "nulls": None if nulls is None else [type(nulls).__name__, nulls.settings()],
        "num_images": len(data),
        "images": _digest(data.images),
        "labels": _digest(data.labels),
        "model": repr(model),
        "standardisation": [_digest(model.mean), _digest(model.std)],
        "first_weights": {name: _digest(t) for name, t in model.state_dict().items()},
        "device": next(model.parameters()).device.type,
        "selections": {
            name: [_digest(data.images), _digest(data.labels)]
            for name, data in selections.images.items()
        },
    }
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.cpu().contiguous().numpy().data).hexdigest()
