from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.models.dropout import Dropout
from nullclass.nulls import MixedNulls, UniformNulls
from nullclass.selection import Selections

NUM_CLASSES = 3


class Dark:
    """Null images that are known beforehand."""

    needs_image_gradient = False

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def settings(self) -> dict[str, Any]:
        return {}

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        assert generator is not None
        self.seen.append(images.clone())
        return images / 4


def small_model(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), Dropout(0.5), nn.Linear(16, NUM_CLASSES + 1))
    return Classifier(body, NUM_CLASSES)


def some_images(num: int = 30, seed: int = 0) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(num, 1, 4, 4, generator=generator)
    return LabelledImages(images, torch.arange(num) % NUM_CLASSES, NUM_CLASSES)


def loss_by_hand(model: Classifier, images: Tensor, targets: list[int]) -> float:
    """Mean cross-entropy in a plain loop, without dropout."""
    weight, bias = model.body[2].weight.double(), model.body[2].bias.double()
    total = 0.0
    for image, target in zip(images.flatten(1).double(), targets, strict=True):
        logits = (weight @ image + bias).tolist()
        total += math.log(sum(map(math.exp, logits))) - logits[target]
    return total / len(images)


@pytest.mark.parametrize("num", [30, 620])  # one batch, and several
def test_the_loss_is_the_mean_over_images_and_as_many_null_images(num: int) -> None:
    model, data, nulls = small_model(), some_images(num), Dark()
    model.train()
    found = Selections({"test": data}, nulls).loss(model, data, nullcontext)
    images, labels = data.batch(slice(None))
    both = torch.cat([images, images / 4])
    targets = [*labels.tolist(), *[NUM_CLASSES] * num]
    assert found == pytest.approx(loss_by_hand(model, both, targets), rel=1e-5)
    assert in_any_order(torch.cat(nulls.seen)) == in_any_order(images), "each image once"
    assert model.training, "as found"
    alone = Selections({"test": data}, None).loss(model, data, nullcontext)
    assert alone == pytest.approx(loss_by_hand(model, images, labels.tolist()), rel=1e-5)


def in_any_order(images: torch.Tensor) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images)


def test_images_sorted_by_class_can_be_mixed() -> None:
    data = some_images(620)
    data = data.subset(data.labels.argsort())
    assert Selections({"test": data}, MixedNulls()).loss(small_model(), data, nullcontext) > 0


def test_the_same_null_images_in_every_epoch_and_no_stream_disturbed() -> None:
    model, data = small_model(), some_images()
    selections = Selections({"test": data}, UniformNulls())
    stream = torch.get_rng_state()
    first = selections.loss(model, data, nullcontext)
    assert selections.loss(model, data, nullcontext) == first
    assert torch.equal(torch.get_rng_state(), stream)


def test_the_weights_of_the_lowest_loss_are_kept_for_each_set_by_itself() -> None:
    test = some_images(30, 1)
    others = LabelledImages(1 - test.images, (test.labels + 1) % NUM_CLASSES, NUM_CLASSES)
    sets = {"test": test, "held-out": others}
    selections = Selections(sets, UniformNulls())
    assert selections.best == {"test": (math.inf, 0), "held-out": (math.inf, 0)}
    assert selections.weights == {}
    told, states = [], []
    model = small_model()
    for epoch in range(1, 13):
        model.load_state_dict(small_model(seed=epoch).state_dict())
        told.append(selections.look(model, epoch, nullcontext))
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        for name in sets:
            losses = [losses[name] for losses in told]
            assert selections.best[name] == (min(losses), losses.index(min(losses)) + 1)
    assert selections.best["test"][1] != selections.best["held-out"][1], "a fair case"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)  # what is kept is a copy
    for name in sets:
        _, epoch = selections.best[name]
        assert selections.weights[name].keys() == states[epoch - 1].keys()
        for key, value in states[epoch - 1].items():
            assert torch.equal(selections.weights[name][key], value)
        model.load_state_dict(selections.weights[name])
        assert selections.loss(model, sets[name], nullcontext) == selections.best[name][0]


def test_of_equal_losses_the_first_epoch_is_kept() -> None:
    model, selections = small_model(), Selections({"test": some_images()}, None)
    for epoch in (1, 2):
        selections.look(model, epoch, nullcontext)
    assert selections.best["test"][1] == 1


def test_nothing_to_select_on_measures_nothing() -> None:
    selections = Selections({}, UniformNulls())
    assert selections.look(small_model(), 1, nullcontext) == {}
    assert selections.weights == {}
