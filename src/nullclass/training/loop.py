"""The training loop: data, null images and a model in, a trained model out; resumable.

:mod:`nullclass.training.steps` describes one step and how null images enter it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nullclass.core.errors import UserError
from nullclass.core.rng import fork_rng
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.data.augment import flipped, jittered
from nullclass.models.classifier import Classifier, check_classifier
from nullclass.models.dropout import scaled_dropout
from nullclass.nulls import NullSource, as_null_source
from nullclass.results.schema import STATE
from nullclass.training.batches import LoaderBatches, TensorBatches, as_batches
from nullclass.training.config import TrainConfig
from nullclass.training.recipes import Recipe
from nullclass.training.selection import BestCheckpoints
from nullclass.training.state import EpochRecord, TrainState, fingerprint
from nullclass.training.steps import Step, StepContext, StepLosses, autocast_of, make_step

Labelled = LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]

OnStep = Callable[[int, int, float], None]


def train(
    model: Classifier,
    data: Labelled,
    config: TrainConfig | Recipe | None = None,
    *,
    nulls: NullSource | str | Sequence[NullSource | str] | None = None,
    validation: Labelled | None = None,
    selections: BestCheckpoints | None = None,
    state_folder: Path | str | None = None,
    on_step: OnStep | None = None,
) -> list[EpochRecord]:
    """Train a model in place.

    On a CPU, the same seed and number of threads give the same weights, bit for bit. With
    ``state_folder``, the state is saved there after every epoch, and the same call continues after
    the last completed epoch to the same weights. With a loader this needs random transforms that
    draw from torch's global stream.

    Args:
        model: The model, on the device to train on.
        data: Clean images in [0,1] with labels: tensors, :class:`LabelledImages`, or a
            ``DataLoader``, which is read anew in every epoch and decides the batches. The label -1
            marks your own null images.
        config: Recipe, seed, optimizer and loss weights; a recipe alone uses the defaults for the
            rest.
        nulls: Source of null images, its name in :data:`nullclass.nulls.NULL_SOURCES`, or a list
            of these: each image then gets a random one.
        validation: Images with labels (read once) to compute the accuracy on after every epoch.
        selections: Computes losses after every epoch and keeps the best weights. The model itself
            ends with the weights of the last epoch.
        state_folder: Folder of the state between epochs.
        on_step: Progress callback: called with (steps done, steps in total, loss) after every step.

    Returns:
        One record per epoch.

    Raises:
        UserError: If the loss is not finite, the model learns nothing, the model cannot be trained
            on these labels or null images, or ``state_folder`` holds the state of another training.
    """
    check_classifier(model)
    if config is None or isinstance(config, Recipe):
        config = TrainConfig(config or Recipe())
    if not isinstance(config, TrainConfig):
        raise UserError(f"config must be a TrainConfig or a Recipe, not {type(config).__name__}")
    recipe = config.recipe
    source = None if nulls is None else as_null_source(nulls, model)
    _check_nulls(model, source, config)
    check_labels = partial(_check_labels, model, config)
    batches = as_batches(data, recipe.batch_size, model.num_classes, check_labels)
    if state_folder is not None and getattr(data, "persistent_workers", False):
        raise UserError(
            "persistent workers keep random states that cannot be saved: use a DataLoader with "
            "persistent_workers=False, or train without state_folder"
        )
    with fork_rng(config.seed):  # a loader draws from the global stream
        held_out = None if validation is None else tensors_or_loader(validation, model.num_classes)
    selections = BestCheckpoints({}, None) if selections is None else selections
    selections.reset()
    optimizer = config.make_optimizer(model)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    scheduler = config.make_scheduler(optimizer)
    data_mark = batches.fingerprint()
    mark = fingerprint(model, data_mark, config, source, selections, optimizer, scheduler)
    generator = torch.Generator().manual_seed(config.seed)
    generators = (generator, *batches.generators)
    state = TrainState(model, optimizer, scheduler, selections, generators, mark)
    step = make_step(StepContext(model, config, source, generator))
    path = None if state_folder is None else Path(state_folder) / STATE
    with fork_rng(config.seed), scaled_dropout(model, recipe.dropout), _restored_gradients(model):
        if path is not None and path.exists():
            state.load(path)
            state.replay_schedule(len(batches) if config.scheduler_interval == "step" else 1)
        if on_step is not None and state.history:
            done = len(state.history) * len(batches)
            on_step(done, recipe.epochs * len(batches), state.history[-1].loss)
        while len(state.history) < recipe.epochs:
            state.history.append(_epoch(state, config, batches, step, held_out, on_step))
            # The state of the last epoch is saved too: the caller removes it once the weights are
            # saved elsewhere.
            if path is not None:
                state.save(path)
    if config.robust is None:  # a loss of bounds has another value for a guess
        _check_learned(model, state.history[-1].loss, len(batches), recipe)
    model.eval()
    return state.history


def _epoch(
    state: TrainState,
    config: TrainConfig,
    batches: TensorBatches | LoaderBatches,
    step: Step,
    validation: LabelledImages | None,
    on_step: OnStep | None,
) -> EpochRecord:
    model, optimizer, recipe = state.model, state.optimizer, config.recipe
    generator, device = state.generators[0], model.mean.device
    number, total = len(state.history) + 1, recipe.epochs * len(batches)
    if recipe.stem_epochs is not None and number > recipe.stem_epochs:
        for parameter in _first_layer(model):
            parameter.requires_grad_(False)
    results: list[StepLosses] = []
    num_images = 0
    started = time.perf_counter()
    model.train()
    for done, batch in enumerate(batches.epoch(generator), start=(number - 1) * len(batches)):
        if state.scheduler is None:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * recipe.lr_factor(done / total)
        images, labels = (tensor.to(device) for tensor in batch)
        if recipe.flip:
            images = flipped(images, generator)
        if recipe.jitter:
            images = jittered(images, recipe.jitter, generator)
        optimizer.zero_grad()
        losses = step(images, labels, done / total)
        if not math.isfinite(losses.loss + (losses.null_loss or 0.0)):
            at = f"at step {len(results) + 1} of epoch {number}"
            raise _diverged(
                f"the loss is {losses.loss} (null loss {losses.null_loss}) {at}", optimizer
            )
        if recipe.max_gradient is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient)
        optimizer.step()
        if config.scheduler_interval == "step":
            state.step_scheduler(losses.loss)
        results.append(losses)
        num_images += len(labels)
        if on_step is not None:
            on_step(done + 1, total, losses.loss)
    seconds = time.perf_counter() - started
    if not results:
        raise UserError(
            f"the loader gives no batch in epoch {number}: it must be readable in every epoch, as "
            "a DataLoader or a list of batches is"
        )
    loss = statistics.fmean(losses.loss for losses in results)
    if config.scheduler_interval == "epoch":
        state.step_scheduler(loss)
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise _diverged(f"weights are not finite after epoch {number}", optimizer)
    null_losses = [r.null_loss for r in results if r.null_loss is not None]
    accuracy = math.nan if validation is None else _accuracy(model, validation)
    selection_losses = {}
    if recipe.selects_epoch or number == recipe.epochs:
        autocast = autocast_of(recipe, device)
        selection_losses = state.selections.update(model, number, autocast)
    return EpochRecord(
        epoch=number,
        loss=loss,
        null_loss=statistics.fmean(null_losses) if null_losses else math.nan,
        train_accuracy=sum(losses.num_correct for losses in results) / num_images,
        validation_accuracy=accuracy,
        seconds=seconds,
        selection_losses=selection_losses,
    )


def _first_layer(model: nn.Module) -> list[nn.Parameter]:
    named = dict(model.named_parameters())
    layer = next(iter(named)).rpartition(".")[0]
    return [parameter for name, parameter in named.items() if name.rpartition(".")[0] == layer]


@contextmanager
def _restored_gradients(model: nn.Module) -> Iterator[None]:
    """Restore ``requires_grad`` of all parameters on exit."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@torch.no_grad()
def _accuracy(model: Classifier, data: LabelledImages) -> float:
    """Put the model into evaluation mode and return its accuracy."""
    model.eval()
    num_correct = 0
    for images, labels in data.batches():
        num_correct += int((model.predict(images.to(model.mean.device)).cpu() == labels).sum())
    return num_correct / len(data)


def _check_labels(model: Classifier, config: TrainConfig, labels: Tensor) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if highest >= model.num_classes:
        raise UserError(
            f"there is a label {highest}, but the model has the classes 0 to "
            f"{model.num_classes - 1}; null is the label -1"
        )
    if lowest < 0 and config.robust is not None:
        raise UserError("a robust loss takes no null images: remove the labels -1")
    if lowest < 0 and model.num_nulls != 1:
        raise UserError(
            "training labels of -1 need a model with one null logit: build it with has_null=True"
        )


def _check_nulls(model: Classifier, nulls: NullSource | None, config: TrainConfig) -> None:
    """Refuse null images that the model cannot be trained on."""
    if nulls is None:
        if config.replace_rate:
            raise UserError("replace_rate is for null images: give nulls, or leave it out")
        return
    if config.robust is not None:
        raise UserError("a robust loss takes no null images: train with one or the other")
    if not model.has_null and not config.uniform_targets:
        raise UserError(
            "null images need a model with a null class: add one by nullclass.with_null_class, or "
            "set uniform_targets to refuse by a threshold later"
        )
    if model.has_null and config.uniform_targets:
        raise UserError("uniform_targets is for models without a null class: this one has one")
    if model.num_nulls not in (0, 1, model.num_classes):
        raise UserError(
            f"null images need one null logit or one per class ({model.num_classes}), and the "
            f"model has {model.num_nulls}"
        )
    if config.replace_rate is not None and (nulls.is_soft or model.num_nulls != 1):
        raise UserError(
            "null images that replace images of the batch need one null logit and a source that "
            "is not soft: set null_weight instead of replace_rate"
        )


def _diverged(symptom: str, optimizer: Optimizer) -> UserError:
    rate = float(optimizer.param_groups[0]["initial_lr"])
    return UserError(f"training diverged: {symptom}; lower the learning rate ({rate:g})")


def _check_learned(model: Classifier, loss: float, num_steps: int, recipe: Recipe) -> None:
    """Refuse a final loss no better than guessing: a broken training, not a result."""
    if loss >= math.log(model.num_classes) and num_steps * recipe.epochs > 50:
        raise UserError(
            f"the model learned nothing: its loss is still {loss:.2f}, that of guessing among "
            f"{model.num_classes} classes; lower the learning rate, check the images and labels, "
            "and start in another folder"
        )
