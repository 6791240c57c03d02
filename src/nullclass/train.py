"""Data + null images + model -> trained model. One loop for every study.

One step, as in the notebook, on a batch (x, y) with null images x_null made from it:

    L = CE(f(x), y) + null_weight * CE(f(x_null), null)

The gradient of L that makes the FGSM null images comes from the same backward pass as the
parameters' gradient, so null images cost one extra forward and backward pass, not two.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.devices import supports_bfloat16
from nullclass.errors import UserError
from nullclass.losses import cross_entropy
from nullclass.models.classifier import Classifier
from nullclass.nulls import NullSource
from nullclass.outcomes import NULL_LABEL
from nullclass.randomness import borrowed_stream
from nullclass.recipes import FAST, Recipe
from nullclass.tensor_files import save_tensors

STATE = "training.safetensors"
OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True)
class TrainConfig:
    """What, together with the model's first weights and the data, decides the result."""

    recipe: Recipe = FAST
    """Batches, epochs, schedule, precision."""
    seed: int = 0
    """Seed of the order of images, of dropout and of the null images."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient (Adam's ``weight_decay``)."""
    null_weight: float = 1 / 11
    """Weight of the null loss (alpha in the notebook)."""

    def __post_init__(self) -> None:
        """Refuse weights and seeds that make no sense."""
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
    null_loss: float
    """NaN without null images."""
    train_accuracy: float
    """Share of clean training images right at the moment they were trained on."""
    validation_accuracy: float
    """NaN without validation images."""
    seconds: float


@dataclass
class _State:
    """All that a later process needs to go on as if there had been no pause."""

    model: Classifier
    optimizer: torch.optim.Adam
    generator: torch.Generator
    fingerprint: str
    history: list[EpochRecord] = field(default_factory=list)

    def save(self, path: Path) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in entry.items()}
        tensors["stream"] = torch.get_rng_state()
        tensors["generator"] = self.generator.get_state()
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            tensors["cuda_stream"] = torch.cuda.get_rng_state(device)
        metadata = {
            "fingerprint": self.fingerprint,
            "history": json.dumps([asdict(record) for record in self.history]),
        }
        save_tensors(path, tensors, metadata)

    def load(self, path: Path) -> None:
        device = next(self.model.parameters()).device
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is damaged ({error}): remove it to start the training again"
            ) from None
        if metadata.get("fingerprint") != self.fingerprint:
            raise UserError(
                f"{path} belongs to a training with other settings or data: choose another output "
                "folder, or remove that file to start again"
            )
        self.history = [EpochRecord(**record) for record in json.loads(metadata["history"])]
        self.model.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
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
        state_folder: Where to keep the state between epochs.
        on_step: Called with (steps done, steps in all, clean loss) after every step.

    Returns:
        One record an epoch.

    Raises:
        UserError: If the loss stops being finite or the model learned nothing, if null images are
            asked for from a model without a null logit, or if ``state_folder`` holds the state
            of another training.
    """
    config = TrainConfig() if config is None else config
    data = tensors_or_loader(data)
    device = next(model.parameters()).device
    recipe = config.recipe
    _check_labels(model, data, nulls)
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(
        model.parameters(), recipe.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    state = _State(model, optimizer, generator, _fingerprint(model, data, config, nulls))
    num_steps = math.ceil(len(data) / recipe.batch_size)
    with borrowed_stream(config.seed):
        path = Path(state_folder) / STATE if state_folder is not None else None
        if path is not None and path.exists():
            state.load(path)
        first_step = len(state.history) * num_steps
        if on_step is not None and first_step:
            on_step(first_step, recipe.epochs * num_steps, state.history[-1].loss)
        while len(state.history) < recipe.epochs:
            record = _epoch(state, data, config, nulls, validation, device, on_step)
            if not all(bool(p.isfinite().all()) for p in model.parameters()):
                raise UserError(
                    f"training diverged: weights are not finite after epoch {record.epoch}; lower "
                    f"the learning rate ({recipe.learning_rate:g})"
                )
            state.history.append(record)
            # The last state is kept too: whoever asked for it removes it with the weights safe.
            if path is not None:
                state.save(path)
    # Not one bit learned is a broken run, not a result.
    if state.history[-1].loss >= math.log(model.num_classes) and num_steps * recipe.epochs > 50:
        raise UserError(
            f"the model learned nothing: its loss is still {state.history[-1].loss:.2f}, that of "
            f"guessing among {model.num_classes} classes; lower the learning rate "
            f"({recipe.learning_rate:g}) or look at the images, and start in another folder"
        )
    model.eval()
    return state.history


def _check_labels(model: Classifier, data: LabelledImages, nulls: NullSource | None) -> None:
    lowest, highest = int(data.labels.min()), int(data.labels.max())
    if highest >= model.num_classes:
        raise UserError(
            f"there is a label {highest}, but the model has the classes 0 to "
            f"{model.num_classes - 1}; null is the label -1"
        )
    if not model.has_null and (nulls is not None or lowest < 0):
        raise UserError("null images need a model with a null class: build it with has_null=True")


def _epoch(
    state: _State,
    data: LabelledImages,
    config: TrainConfig,
    nulls: NullSource | None,
    validation: LabelledImages | None,
    device: torch.device,
    on_step: OnStep | None,
) -> EpochRecord:
    recipe, model, optimizer = config.recipe, state.model, state.optimizer
    is_reduced = recipe.precision == "bfloat16" and supports_bfloat16(device)
    precision = partial(torch.autocast, device.type, torch.bfloat16, enabled=is_reduced)
    epoch = len(state.history)
    num_steps = math.ceil(len(data) / recipe.batch_size)
    order = torch.randperm(len(data), generator=state.generator)
    losses, null_losses, num_correct = 0.0, 0.0, 0
    started = time.perf_counter()
    model.train()
    for step in range(num_steps):
        done = epoch * num_steps + step
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(
                recipe, done / (recipe.epochs * num_steps)
            )
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        images, labels = (tensor.to(device) for tensor in data.batch(chosen))
        images.requires_grad_(nulls is not None and nulls.needs_image_gradient)
        with precision():
            logits = model(images)
        loss = cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        value, null_value = loss.item(), math.nan
        if nulls is not None:
            with precision():
                null_logits = model(_null_images(nulls, images, labels, recipe, state.generator))
            null_labels = labels.new_full((len(null_logits),), NULL_LABEL)
            null_loss = cross_entropy(null_logits, null_labels)
            (config.null_weight * null_loss).backward()
            null_value = null_loss.item()
        if not math.isfinite(value) or (nulls is not None and not math.isfinite(null_value)):
            raise UserError(
                f"training diverged: the loss is {value} (null loss {null_value}) at step "
                f"{step + 1} of epoch {epoch + 1}; lower the learning rate "
                f"({recipe.learning_rate:g})"
            )
        optimizer.step()
        losses, null_losses = losses + value, null_losses + null_value
        predicted = logits.detach().argmax(dim=1)
        num_correct += int((predicted == labels.where(labels >= 0, logits.shape[1] - 1)).sum())
        if on_step is not None:
            on_step(done + 1, recipe.epochs * num_steps, value)
    return EpochRecord(
        epoch=epoch + 1,
        loss=losses / num_steps,
        null_loss=null_losses / num_steps,
        train_accuracy=num_correct / len(data),
        validation_accuracy=_accuracy(model, validation, device) if validation else math.nan,
        seconds=time.perf_counter() - started,
    )


def _null_images(
    nulls: NullSource,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
) -> Tensor:
    """Null images from the first ``null_fraction`` of a shuffled batch, gradient at hand."""
    num = max(1, round(len(images) * recipe.null_fraction))
    part = images.detach()[:num]
    if images.grad is not None:
        part.grad = images.grad[:num]
    return nulls(part, labels[:num], generator)


def _schedule(recipe: Recipe, progress: float) -> float:
    """Share of the learning rate at ``progress`` in [0, 1) of all steps; never quite zero."""
    if recipe.schedule == "constant":
        return 1.0
    return max(min(progress / 0.2, (1 - progress) / 0.8), 1e-3)


@torch.no_grad()
def _accuracy(model: Classifier, data: LabelledImages, device: torch.device) -> float:
    model.eval()
    num_correct = 0
    for indices in torch.arange(len(data)).split(500):
        images, labels = data.batch(indices)
        num_correct += int((model.predict(images.to(device)).cpu() == labels.cpu()).sum())
    return num_correct / len(data)


def _fingerprint(
    model: Classifier, data: LabelledImages, config: TrainConfig, nulls: NullSource | None
) -> str:
    """A hash of everything that decides the result, so that a state is never misused."""
    told = {
        "config": asdict(config),
        "nulls": None if nulls is None else [type(nulls).__name__, nulls.settings()],
        "num_images": len(data),
        "images": _digest(data.images),
        "labels": _digest(data.labels),
        "model": repr(model),
        "standardisation": [_digest(model.mean), _digest(model.std)],
        "first_weights": {name: _digest(t) for name, t in model.state_dict().items()},
        "device": next(model.parameters()).device.type,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.cpu().contiguous().numpy().data).hexdigest()
