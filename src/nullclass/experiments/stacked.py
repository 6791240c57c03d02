"""Several trainings in one process, their weights stacked: made for GPUs.

Networks as small as ours leave a GPU idle: most of a step is spent on starting it. Here one step
is one step of every model of a stack. Weights are stacked along a new first axis, and ``vmap``
maps one model's step over it, which turns its convolutions into grouped ones. Adam works on each
weight alone, so that one Adam over the stack is Adam on each model.

What is trained is what would be trained one by one, up to the rounding of sums in another order:
each model draws its own order of images, null images and dropout masks from its own streams, and
after every epoch writes the same state file as alone. A stack that was stopped can go on stacked
or one by one.

A stack of M models needs M times the memory of one: weights, their gradient, Adam's two moments
and each selection's best weights (1.2 million numbers each for the report's network on MNIST), and
the activations of a batch (about 120,000 numbers an image there).
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from nullclass.core.errors import UserError
from nullclass.core.files import make_folder
from nullclass.core.losses import cross_entropy
from nullclass.core.progress import Advance
from nullclass.core.rng import fork_rng
from nullclass.data import Dataset
from nullclass.experiments.config import Config, Training
from nullclass.experiments.jobs import place_of
from nullclass.experiments.tasks import do
from nullclass.experiments.trained import Trained, history_of, write_training
from nullclass.models import Classifier
from nullclass.models.dropout import Dropout, scaled_dropout
from nullclass.nulls import make_nulls
from nullclass.results import schema, store
from nullclass.training.loop import (
    EpochRecord,
    accuracy,
    begin,
    check_learned,
    check_weights,
    frozen_names,
    is_candidate,
    learning_rate,
    precision_of,
    steps_per_epoch,
)
from nullclass.training.steps import Precision, mix_within

Weights = dict[str, Tensor]

_MOMENTS = ("exp_avg", "exp_avg_sq")


def can_stack(first: Training, other: Config) -> bool:
    """Whether two trainings can be steps of one stack.

    They must be alike in all but name, seed and null images, start from fresh weights, and have
    null images within their batches, made without the model in training, or none at all, no robust
    loss and no jitter. Every training stacks with itself, so that there is always a stack of one.
    """
    if first == other:
        return True
    if not isinstance(other, Training):
        return False
    if first.start is not None or first.queries is not None or first.robust is not None:
        return False
    if first.recipe.jitter:
        return False
    if replace(first, name=other.name, seed=other.seed, nulls=other.nulls) != other:
        return False
    return _has_stackable_nulls(first) and _has_stackable_nulls(other)


def _has_stackable_nulls(training: Training) -> bool:
    plan = training.nulls
    if plan is None:
        return True
    return plan.share is not None and not (
        make_nulls(plan.source, plan.settings, None).needs_image_gradient
    )


def do_stacked(
    trainings: Sequence[Training],
    run_folder: Path,
    dataset: Dataset,
    *,
    device: torch.device,
    advance: Advance = lambda _: None,
) -> None:
    """Do trainings that can stack and write their folders, but for those that are there.

    Those that were stopped at an earlier epoch than others go on together; the others are finished
    one by one first. The ``seconds`` of a model's epoch are its share of the stack's.

    Args:
        trainings: The configs, each of which :func:`can_stack` with the first.
        run_folder: The run's folder.
        dataset: The data.
        device: Where to train.
        advance: Told the share of the work on all of them that is done since it was last told.

    Raises:
        UserError: As :func:`nullclass.experiments.tasks.do`; it names the training. A loss that is
        not finite is
            noticed at the end of its epoch, of which nothing is kept. A model that learned nothing
            does not keep the others from being written.
    """
    part = 1 / len(trainings)

    def do_alone(training: Training) -> None:
        do(
            training,
            run_folder,
            dataset,
            device=device,
            advance=lambda share: advance(part * share),
        )

    left = []
    for training in trainings:
        if store.is_complete(run_folder / place_of(training, dataset.checksum)):
            advance(part)
        else:
            left.append(training)
    members = [_Member(training, run_folder, dataset, device) for training in left]
    least = min((member.num_epochs for member in members), default=0)
    together = [member for member in members if member.num_epochs == least]
    alone = [member.training for member in members if member.num_epochs > least]
    if len(together) == 1:
        alone += [together.pop().training]
    del members  # their weights would stay in memory
    for training in alone:
        with _naming(training):
            do_alone(training)
    if not together:
        return
    _train(together, dataset, device, lambda share: advance(part * len(together) * share))
    failures = []
    for member in together:
        try:
            member.write(dataset, device)
        except UserError as error:
            failures.append(error)
    if failures:
        raise failures[0]


@contextmanager
def _naming(training: Training) -> Iterator[None]:
    """Say whose error it is."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{training.variant}: {error}") from error


@dataclass(frozen=True)
class _Drawn:
    """All that one model's step is made of, on the CPU."""

    images: Tensor
    """``(B, C, H, W)``, null images last."""
    labels: Tensor
    num_nulls: int
    kept: list[Tensor]
    """Which units each dropout layer keeps."""


@dataclass(frozen=True)
class _Mask:
    """A dropout layer of the network, and what it drops from."""

    name: str
    """Of its buffer."""
    layer: Dropout
    shape: tuple[int, ...]
    """Of one image's units there."""


class _Member:
    """One training of a stack: what it draws and what it remembers."""

    def __init__(
        self, training: Training, run_folder: Path, dataset: Dataset, device: torch.device
    ) -> None:
        self.training = training
        self.folder = make_folder(run_folder / place_of(training, dataset.checksum))
        store.invalidate(self.folder)
        store.clear_leftovers(self.folder)
        self.data = dataset.train
        self.trained = Trained(training, dataset, device=device)
        self.config = self.trained.config
        self.num_steps = steps_per_epoch(len(self.data), self.config.recipe)
        self.order = torch.empty(0)
        self.stream = torch.Generator()
        """Where torch's global stream would be, had this model trained alone."""
        path = self.folder / schema.STATE
        with _naming(training):
            self.state = begin(
                self.trained.model,
                self.data,
                self.config,
                self.trained.nulls,
                self.trained.selections,
            )
            with fork_rng(training.seed):
                if path.exists():
                    self.state.load(path)
                self.stream.set_state(torch.get_rng_state())

    @property
    def model(self) -> Classifier:
        return self.trained.model

    @property
    def num_epochs(self) -> int:
        """Epochs done."""
        return len(self.state.history)

    def shuffle(self) -> None:
        """Draw the order of the next epoch's images."""
        self.order = torch.randperm(len(self.data), generator=self.state.generator)

    def draw(self, step: int, masks: Sequence[_Mask]) -> _Drawn:
        """Draw a step of the epoch; each model its steps in their order."""
        size = self.config.recipe.batch_size
        images, labels = self.data.batch(self.order[step * size : (step + 1) * size])
        with _naming(self.training):
            images, labels, num_nulls = mix_within(
                images,
                labels,
                self.trained.nulls,
                self.state.generator,
                self.config.null_share or 0.0,
            )
        kept = [
            mask.layer.draw_kept(torch.Size((len(labels), *mask.shape)), self.stream)
            for mask in masks
        ]
        return _Drawn(images, labels, num_nulls, kept)

    def end_epoch(
        self, seen: list[list[float]], seconds: float, dataset: Dataset, device: torch.device
    ) -> None:
        """Measure the model, remember the epoch and write the state.

        Args:
            seen: Loss, null loss and number of right answers of each step.
            seconds: What the epoch took.
            dataset: The data.
            device: Where the model is.
        """
        recipe, epoch = self.config.recipe, self.num_epochs + 1
        precision = precision_of(recipe, device)
        with _naming(self.training):
            for step, (loss, null_loss, _) in enumerate(seen):
                if not math.isfinite(loss) or math.isinf(null_loss):
                    raise UserError(
                        f"training diverged: the loss is {loss} (null loss {null_loss}) at step "
                        f"{step + 1} of epoch {epoch}; lower the learning rate "
                        f"({recipe.learning_rate:g})"
                    )
            check_weights(self.model, epoch, recipe)
        losses, null_losses, num_correct = zip(*seen, strict=True)
        selections = self.trained.selections
        real = [loss for loss in null_losses if not math.isnan(loss)]
        held_out = dataset.validation
        record = EpochRecord(
            epoch=epoch,
            loss=statistics.fmean(losses),
            null_loss=statistics.fmean(real) if real else math.nan,
            train_accuracy=sum(num_correct)
            / min(self.num_steps * recipe.batch_size, len(self.data)),
            validation_accuracy=accuracy(self.model, held_out, device) if held_out else math.nan,
            seconds=seconds,
            selection_losses=selections.look(self.model, epoch, precision)
            if is_candidate(recipe, epoch)
            else {},
        )
        self.state.history.append(record)

    def save(self) -> None:
        """Write the state file."""
        with fork_rng(self.training.seed):
            torch.set_rng_state(self.stream.get_state())
            self.state.save(self.folder / schema.STATE)

    def write(self, dataset: Dataset, device: torch.device) -> None:
        """Write the training's result."""
        history = self.state.history
        with _naming(self.training):
            check_learned(self.model, history[-1].loss, self.num_steps, self.config.recipe)
        self.model.eval()
        table = history_of([asdict(record) for record in history])
        write_training(self.trained, table, self.folder, dataset, device)


def _train(
    members: list[_Member], dataset: Dataset, device: torch.device, advance: Advance
) -> None:
    """Train models that have done the same number of epochs to their last."""
    model, recipe, num_steps = members[0].model, members[0].config.recipe, members[0].num_steps
    masks = _masks_of(model, dataset)
    weights, optimizer = _stack(members)
    make_step = partial(_make_step, model, masks, precision_of(recipe, device), weights, device)
    advance(members[0].num_epochs / recipe.epochs)
    with scaled_dropout(model, recipe.dropout), _drawing(len(members), device) as pool:

        def start_drawing(step: int) -> list[Future[_Drawn]]:
            return [pool.submit(member.draw, step, masks) for member in members]

        for epoch in range(members[0].num_epochs, recipe.epochs):
            started = time.perf_counter()
            for member in members:
                member.shuffle()
            model.train()
            frozen = frozen_names(model, recipe, epoch)
            seen: list[Tensor] = []
            coming = start_drawing(0)
            for step in range(num_steps):
                drawn = [future.result() for future in coming]
                if step + 1 < num_steps:
                    coming = start_drawing(step + 1)
                gradients, told = make_step(drawn)
                for name, weight in weights.items():
                    # Fused Adam walks weight and gradient side by side in memory.
                    weight.grad = None if name in frozen else gradients[name].contiguous()
                progress = (epoch * num_steps + step) / (recipe.epochs * num_steps)
                optimizer.param_groups[0]["lr"] = learning_rate(recipe, progress)
                optimizer.step()
                seen.append(told)
                advance(1 / (recipe.epochs * num_steps))
            told_all = torch.stack(seen).cpu()  # the one place where the device is waited for
            seconds = (time.perf_counter() - started) / len(members)
            for place, member in enumerate(members):
                member.end_epoch(told_all[:, :, place].tolist(), seconds, dataset, device)
            # None is written before all are known to be fine, so that they stay side by side.
            for member in members:
                member.save()


def _stack(members: list[_Member]) -> tuple[Weights, torch.optim.Adam]:
    """Stack weights and Adam's moments; the models' own become views of the stacked ones.

    So each model can be measured and saved as if it were alone, and nothing is copied back.

    Returns:
        The weights ``(M, …)`` by name, and Adam over them.
    """
    config = members[0].config
    optimizers = [member.state.optimizer for member in members]
    weights: Weights = {}
    for name, _ in members[0].model.named_parameters():
        own = [member.model.get_parameter(name) for member in members]
        weights[name] = torch.stack([mine.detach() for mine in own]).contiguous()
        for mine, view in zip(own, weights[name], strict=True):
            mine.data = view
    stacked = torch.optim.Adam(
        weights.values(), config.recipe.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    for name, weight in weights.items():
        own = [member.model.get_parameter(name) for member in members]
        state = {"step": torch.zeros((), device=weight.device)}
        state |= {key: torch.zeros_like(weight) for key in _MOMENTS}
        if members[0].num_epochs > 0:
            for place, (optimizer, mine) in enumerate(zip(optimizers, own, strict=True)):
                state["step"].copy_(optimizer.state[mine]["step"])
                for key in _MOMENTS:
                    state[key][place] = optimizer.state[mine][key]
        stacked.state[weight] = state
        for place, (optimizer, mine) in enumerate(zip(optimizers, own, strict=True)):
            optimizer.state[mine] = {"step": state["step"]}
            optimizer.state[mine] |= {key: state[key][place] for key in _MOMENTS}
    return weights, stacked


@torch.no_grad()
def _masks_of(model: Classifier, dataset: Dataset) -> list[_Mask]:
    """The dropout layers in the order in which a forward pass draws their masks."""
    found: list[_Mask] = []

    def note(name: str, layer: nn.Module, args: tuple[Tensor]) -> None:
        assert isinstance(layer, Dropout)
        found.append(_Mask(f"{name}.mask", layer, tuple(args[0].shape[1:])))

    hooks = [
        layer.register_forward_pre_hook(partial(note, name))
        for name, layer in model.named_modules()
        if isinstance(layer, Dropout)
    ]
    images, _ = dataset.train.batch(slice(0, 1))
    model.eval()
    model(images.to(next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return found


def _make_step(
    model: Classifier,
    masks: Sequence[_Mask],
    precision: Precision,
    weights: Weights,
    device: torch.device,
    drawn: list[_Drawn],
) -> tuple[Weights, Tensor]:
    """One step of all models: their gradients, and what the step saw.

    Args:
        model: Any of the models, in training mode; its own weights are not used.
        masks: Its dropout layers.
        precision: Context of the forward pass.
        weights: ``(M, …)`` by name.
        device: Where the weights are.
        drawn: Of each model.

    Returns:
        Gradients ``(M, …)`` by name; losses, losses on null images (NaN where
        there are none) and numbers of right answers, ``(3, M)``.
    """

    def loss_of(
        weights: Weights, factors: Weights, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        with precision():
            logits = functional_call(model, (weights, factors), (images,))
        losses = cross_entropy(logits, labels, reduction="none")
        targets = labels.where(labels >= 0, logits.shape[1] - 1)
        num_correct = (logits.argmax(dim=1) == targets).sum()
        return losses.mean(), (losses.detach(), num_correct)

    move = partial(_moved, device=device)
    factors = {
        mask.name: move([one.kept[place] for one in drawn]).float().mul_(mask.layer.scale)
        for place, mask in enumerate(masks)
    }
    images, labels = move([one.images for one in drawn]), move([one.labels for one in drawn])
    step: Callable[..., tuple[Weights, tuple[Tensor, tuple[Tensor, Tensor]]]] = vmap(
        grad_and_value(loss_of, has_aux=True)
    )
    gradients, (loss, (losses, num_correct)) = step(weights, factors, images, labels)
    num_nulls = move([torch.tensor([one.num_nulls]) for one in drawn])
    size = labels.shape[1]
    is_null = torch.arange(size, device=device) >= size - num_nulls
    null_loss = losses.where(is_null, 0).sum(dim=1) / num_nulls.squeeze(1)
    return gradients, torch.stack([loss, null_loss, num_correct.float()])


def _moved(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Stacked and on the device."""
    stacked = torch.stack(tensors)
    if device.type != "cuda":
        return stacked.to(device)
    # From pinned memory a copy does not wait for the step before to end.
    return stacked.pin_memory().to(device, non_blocking=True)


@contextmanager
def _drawing(num_models: int, device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Threads that draw the next step while this one is computed.

    Drawing, about a millisecond a model, would take longer than a GPU's step. Each model has
    streams of its own, so that who draws first has no say.
    """
    num_cores = os.cpu_count() or 1
    num_threads = 1 if device.type == "cpu" else max(1, min(num_models, num_cores - 1))
    # In these threads only: many small operations, none of them worth several threads.
    pool = ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
