"""What ``train`` accepts: loaders read anew, optimizers, schedulers, null sources, likely slips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from training_cases import (
    NUM_CLASSES,
    RECIPE,
    MadeBy,
    assert_same_bits,
    assert_same_history,
    fresh_model,
    learnable_images,
)

from nullclass.core.errors import UserError
from nullclass.models import Classifier
from nullclass.nulls import AdversarialNulls, AnyOf, MixedNulls, UniformNulls
from nullclass.training.config import TrainConfig
from nullclass.training.loop import train
from nullclass.training.recipes import Recipe
from nullclass.training.robust import IntervalLoss

CONSTANT = replace(RECIPE, schedule="constant")


class Marked(Dataset[tuple[Tensor, int]]):
    """Image i has i / 50 in its first pixel and a new random number in its last one."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = learnable_images(40).images[index].clone()
        image[0, 0, 0], image[0, -1, -1] = index / 50, torch.rand(())
        return image, index % NUM_CLASSES


def seen_by(model: Classifier) -> list[tuple[list[int], Tensor]]:
    """Per forward pass: the indices of :class:`Marked` images, and their random numbers."""
    seen: list[tuple[list[int], Tensor]] = []

    def hook(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        images = args[0].detach() * 0.3 + 0.3
        seen.append(((images[:, 0, 0, 0] * 50).round().int().tolist(), images[:, 0, -1, -1]))

    model.body.register_forward_hook(hook)
    return seen


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_loader_is_read_anew_in_every_epoch(num_workers: int) -> None:
    model = fresh_model(has_null=False)
    seen = seen_by(model)
    loader = DataLoader(Marked(), batch_size=15, shuffle=True, num_workers=num_workers)
    steps: list[tuple[int, int]] = []
    recipe = replace(RECIPE, batch_size=7)
    train(model, loader, recipe, on_step=lambda done, total, loss: steps.append((done, total)))
    assert steps == [(step, 9) for step in range(1, 10)]
    assert [len(indices) for indices, _ in seen] == [15, 15, 10] * 3, "the loader's own batches"
    epochs = [[i for indices, _ in seen[at : at + 3] for i in indices] for at in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    numbers = torch.cat([drawn for _, drawn in seen])
    assert len(numbers.unique()) > 115, "augmentation is random in every epoch"


def test_a_loader_of_the_same_batches_gives_the_weights_of_plain_torch() -> None:
    data = learnable_images(48)
    loader = DataLoader(TensorDataset(data.images, data.labels), batch_size=16)
    model, plain = fresh_model(), fresh_model()
    config = TrainConfig(
        replace(CONSTANT, epochs=4),
        optimizer=partial(SGD, lr=0.1, momentum=0.9),
        scheduler=lambda optimizer: StepLR(optimizer, 2, gamma=0.1),
    )
    train(model, loader, config)
    optimizer = SGD(plain.parameters(), lr=0.1, momentum=0.9)
    scheduler = StepLR(optimizer, 2, gamma=0.1)
    for _ in range(4):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(images), labels).backward()
            optimizer.step()
        scheduler.step()
    assert_same_bits(model, plain)
    # A list of batches is a loader, and so is one of bytes.
    as_list = fresh_model()
    train(as_list, list(loader), config)
    assert_same_bits(as_list, plain)


class Batches:
    """A loader of its own kind, which counts the batches it has yielded."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.num_yielded = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.num_yielded += 1
            yield batch


def test_batches_are_read_one_by_one() -> None:
    data = learnable_images(64)
    pixels = (data.images * 255).to(torch.uint8)
    loader = Batches([(pixels[i : i + 16], data.labels[i : i + 16]) for i in range(0, 64, 16)])
    counts: list[int] = []

    def on_step(done: int, total: int, loss: float) -> None:
        counts.append(loader.num_yielded - done)

    model = fresh_model()
    images = seen_by(model)
    train(model, loader, RECIPE, on_step=on_step)
    assert counts == [0] * 12
    assert max(float(last.max()) for _, last in images) <= 1, "bytes become [0,1]"


def test_schedulers_step_per_epoch_or_per_batch() -> None:
    def rates(scheduler: Any, interval: Any = "epoch") -> list[float]:
        found: list[float] = []
        made: list[Any] = []

        def optimizer(params: Any) -> AdamW:
            made.append(AdamW(params, lr=1e-4))
            return made[0]

        config = TrainConfig(
            CONSTANT, optimizer=optimizer, scheduler=scheduler, scheduler_interval=interval
        )
        train(
            fresh_model(), learnable_images(32), config,
            on_step=lambda *_: found.append(made[0].param_groups[0]["lr"]),
        )  # fmt: skip
        return found

    per_epoch = rates(lambda optimizer: StepLR(optimizer, 1, gamma=0.5))
    assert per_epoch == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5, 2.5e-5])
    reference = AdamW([nn.Parameter(torch.zeros(1))], lr=1e-4)
    cycle = OneCycleLR(reference, 0.01, 7)
    expected = []
    for _ in range(6):
        reference.step()
        cycle.step()
        expected.append(cycle.get_last_lr()[0])
    assert rates(lambda o: OneCycleLR(o, 0.01, 7), "step") == pytest.approx(expected)
    plateau = rates(lambda o: ReduceLROnPlateau(o, patience=0, threshold=0.99))
    assert plateau == pytest.approx([1e-4] * 4 + [1e-5] * 2), "the loss does not fall to 1 %"


def test_an_optimizer_of_ones_own_takes_part_of_the_recipe() -> None:
    """The schedule of the recipe applies to it; its learning rate is its own."""
    found: list[float] = []

    class Spied(SGD):
        def step(self, closure: Any = None) -> Any:
            found.append(self.param_groups[0]["lr"])
            return super().step(closure)

    train(
        fresh_model(), learnable_images(64), TrainConfig(RECIPE, optimizer=partial(Spied, lr=0.3))
    )
    peak = max(found)
    assert 0.25 < peak <= 0.3
    assert found[0] == pytest.approx(3e-4)
    assert found[-1] < peak / 3


# Null sources


def test_a_list_of_sources_is_mixed() -> None:
    white, grey = MadeBy(), MadeBy(lambda images: torch.full_like(images, 0.5))
    model = fresh_model()
    kinds = seen_by(model)
    train(model, learnable_images(64), TrainConfig(replace(RECIPE, epochs=4)), nulls=[white, grey])
    last_pixels = torch.cat([last for _, last in kinds[1::2]])
    assert len(last_pixels) == 256
    num_white = int((last_pixels > 0.99).sum())
    assert num_white + int(((last_pixels - 0.5).abs() < 1e-6).sum()) == 256
    assert 90 < num_white < 166
    by_list, by_hand = fresh_model(), fresh_model()
    train(by_list, learnable_images(), RECIPE, nulls=[UniformNulls(), "mixed"])
    train(by_hand, learnable_images(), RECIPE, nulls=AnyOf([UniformNulls(), MixedNulls()]))
    assert_same_bits(by_list, by_hand)


def test_a_source_by_name_attacks_the_model_in_training() -> None:
    by_name, by_hand = fresh_model(), fresh_model()
    history = train(by_name, learnable_images(), RECIPE, nulls="adversarial")
    expected = train(by_hand, learnable_images(), RECIPE, nulls=AdversarialNulls(by_hand))
    assert_same_bits(by_name, by_hand)
    assert_same_history(history, expected)


def test_the_default_config_and_a_recipe_as_config() -> None:
    one, other, default = fresh_model(), fresh_model(), fresh_model()
    train(one, learnable_images(), Recipe(epochs=2))
    train(other, learnable_images(), TrainConfig(Recipe(epochs=2)))
    assert_same_bits(one, other)
    assert len(train(default, learnable_images())) == Recipe().epochs


# Slips


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from Marked()


SLIPS: dict[str, tuple[dict[str, Any], str]] = {
    "a network": ({"model": nn.Linear(2, 2)}, "wrap your network"),
    "a dataset": ({"data": Marked()}, "wrap a torch Dataset in a DataLoader"),
    "a generator": ({"data": (batch for batch in [])}, "the training data have no length"),
    "a loader without length": ({"data": DataLoader(Stream())}, "the training data have no length"),
    "no batches": ({"data": []}, "the loader has no batches"),
    "images alone": ({"data": torch.zeros(4, 1, 8, 8)}, "expected a pair"),
    "a number": ({"data": 3}, "expected a pair"),
    "pixels of a loader": (
        {"data": [(torch.full((4, 1, 8, 8), 2.0), torch.zeros(4).long())]},
        r"\[0,1\], but range from 2 to 2",
    ),
    "labels of a loader": (
        {"data": [(torch.zeros(4, 1, 8, 8), torch.full((4,), 3))]},
        "labels run from 3 to 3",
    ),
    "null labels of a loader": (
        {
            "model": fresh_model(has_null=False),
            "data": [(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, -1]))],
        },
        "labels of -1 need a model with one null logit",
    ),
    "labels of validation": (
        {"validation": (torch.zeros(4, 1, 8, 8), torch.full((4,), 3))},
        "labels run from 3 to 3",
    ),
    "config by name": ({"config": "fast"}, "config must be a TrainConfig or a Recipe, not str"),
    "an empty config": ({"config": {}}, "config must be a TrainConfig or a Recipe, not dict"),
    "nulls by a wrong name": ({"nulls": "fgsm"}, "the null source must be one of .*, not 'fgsm'"),
    "nulls by class": ({"nulls": AdversarialNulls}, "not AdversarialNulls"),
    "nulls that are images": ({"nulls": torch.zeros(4, 1, 8, 8)}, "not Tensor"),
    "no nulls": ({"nulls": []}, "at least one source"),
    "a share of null images, and none": (
        {"config": TrainConfig(RECIPE, replace_rate=0.3)},
        "replace_rate is for null images",
    ),
    "robust and null": (
        {"nulls": "uniform", "config": TrainConfig(RECIPE, robust=IntervalLoss(0.1))},
        "a robust loss takes no null images",
    ),
    "robust and null labels": (
        {
            "data": [(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, -1]))],
            "config": TrainConfig(RECIPE, robust=IntervalLoss(0.1)),
        },
        "a robust loss takes no null images",
    ),
    "an optimizer that is none": (
        {"config": TrainConfig(RECIPE, optimizer=lambda params: 3)},  # type: ignore[arg-type,return-value]
        "optimizer must return an Optimizer, not int",
    ),
    "an optimizer of another model": (
        {"config": TrainConfig(RECIPE, optimizer=lambda params: SGD(nn.Linear(2, 2).parameters()))},
        "has no parameter of the model",
    ),
    "NumPy data": (
        {"data": (np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64))},
        "images that are a ndarray",
    ),
    "batches that are dictionaries": (
        {"data": [{"image": torch.zeros(4, 1, 8, 8), "label": torch.zeros(4)}]},
        "a dictionary with the keys image, label",
    ),
    "nulls without their settings": ({"nulls": "null-probabilities"}, r"needs settings .*curve"),
    "a scheduler that is none": (
        {"config": TrainConfig(CONSTANT, scheduler=lambda optimizer: 3)},  # type: ignore[arg-type,return-value]
        "scheduler must return an LRScheduler, not int",
    ),
    "plateaus per batch": (
        {"config": TrainConfig(CONSTANT, scheduler=ReduceLROnPlateau, scheduler_interval="step")},
        "ReduceLROnPlateau needs scheduler_interval='epoch'",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_get_one_sentence(slip: str) -> None:
    arguments, says = SLIPS[slip]
    model = arguments.get("model") or fresh_model()
    rest = {key: value for key, value in arguments.items() if key != "model"}
    with pytest.raises(UserError, match=says):
        train(model, **({"data": learnable_images(), "config": RECIPE} | rest))
