from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from training_cases import MadeBy

from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.models.dropout import Dropout
from nullclass.nulls import (
    CCATNulls,
    MixedNulls,
    NullProbabilities,
    NullSource,
    UniformNulls,
)
from nullclass.results.null_curve import NullCurve
from nullclass.training.selection import BestCheckpoints

NUM_CLASSES = 3


def darker(is_soft: bool = False) -> MadeBy:
    """Known null images, and a known probability of null: each image's first pixel."""
    return MadeBy(lambda images: images / 4, (lambda x: x[:, 0, 0, 0]) if is_soft else None)


def small_model(seed: int = 0, num_nulls: int = 1) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), Dropout(0.5), nn.Linear(16, NUM_CLASSES + num_nulls))
    return Classifier(body, NUM_CLASSES, has_null=num_nulls > 0, num_nulls=max(1, num_nulls))


def some_images(num: int = 30, seed: int = 0) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(num, 1, 4, 4, generator=generator)
    return LabelledImages(images, torch.arange(num) % NUM_CLASSES, NUM_CLASSES)


def logs_by_hand(model: Classifier, image: Tensor) -> list[float]:
    """Log-probabilities of one image, without dropout."""
    weight, bias = model.body[2].weight.double(), model.body[2].bias.double()
    logits = (weight @ image.flatten().double() + bias).tolist()
    return [z - math.log(sum(map(math.exp, logits))) for z in logits]


def loss_by_hand(model: Classifier, images: Tensor, targets: list[int]) -> float:
    """Mean cross-entropy in a plain loop, without dropout."""
    pairs = zip(images, targets, strict=True)
    return -sum(logs_by_hand(model, image)[target] for image, target in pairs) / len(images)


@pytest.mark.parametrize("num", [30, 620])  # one batch, and several
def test_the_loss_is_the_mean_over_images_and_as_many_null_images(num: int) -> None:
    model, data, nulls = small_model(), some_images(num), darker()
    model.train()
    found = BestCheckpoints({"test": data}, nulls).loss(model, data, nullcontext)
    images, labels = data.batch(slice(None))
    both = torch.cat([images, images / 4])
    targets = [*labels.tolist(), *[NUM_CLASSES] * num]
    assert found == pytest.approx(loss_by_hand(model, both, targets), rel=1e-5)
    assert in_any_order(torch.cat([images for images, _, _ in nulls.calls])) == in_any_order(
        images
    ), "each image once"
    assert model.training, "as found"
    alone = BestCheckpoints({"test": data}, None).loss(model, data, nullcontext)
    assert alone == pytest.approx(loss_by_hand(model, images, labels.tolist()), rel=1e-5)


@pytest.mark.parametrize("is_soft", [False, True])
@pytest.mark.parametrize("num_nulls", [0, 1, NUM_CLASSES])
def test_soft_null_images_have_the_loss_of_training(num_nulls: int, is_soft: bool) -> None:
    model, data, nulls = small_model(num_nulls=num_nulls), some_images(30), darker(is_soft)
    found = BestCheckpoints({"test": data}, nulls).loss(model, data, nullcontext)
    total = 0.0
    for image, label in zip(*data.batch(slice(None)), strict=True):
        clean, null = (logs_by_hand(model, x) for x in (image, image / 4))
        share = float(image[0, 0, 0]) if is_soft else 1.0
        of_null = {
            0: sum(null) / NUM_CLASSES,
            1: null[-1],
            NUM_CLASSES: null[(NUM_CLASSES + int(label)) % len(null)],
        }[num_nulls]
        total -= clean[label] + (1 - share) * null[label] + share * of_null
    assert found == pytest.approx(total / 60, rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: CCATNulls(model, num_steps=2),
        lambda model: NullProbabilities(model, NullCurve("linf", (0.3,), (1.0,)), "pgd"),
    ],
)
def test_sources_that_attack_the_model(
    make: Callable[[Classifier], NullSource],
) -> None:
    model, data = small_model().train(), some_images()
    selections = BestCheckpoints({"test": data}, make(model))
    first = selections.loss(model, data, nullcontext)
    assert math.isfinite(first)
    assert selections.loss(model, data, nullcontext) == first, "dropout is off, the draw the same"
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def in_any_order(images: torch.Tensor) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images)


def test_images_sorted_by_class_can_be_mixed() -> None:
    data = some_images(620)
    data = data.subset(data.labels.argsort())
    assert BestCheckpoints({"test": data}, MixedNulls()).loss(small_model(), data, nullcontext) > 0


def test_the_same_null_images_in_every_epoch_and_no_stream_disturbed() -> None:
    model, data = small_model(), some_images()
    selections = BestCheckpoints({"test": data}, UniformNulls())
    stream = torch.get_rng_state()
    first = selections.loss(model, data, nullcontext)
    assert selections.loss(model, data, nullcontext) == first
    assert torch.equal(torch.get_rng_state(), stream)


def test_the_weights_of_the_lowest_loss_are_kept_for_each_set_by_itself() -> None:
    test = some_images(30, 1)
    others = LabelledImages(1 - test.images, (test.labels + 1) % NUM_CLASSES, NUM_CLASSES)
    sets = {"test": test, "held-out": others}
    selections = BestCheckpoints(sets, UniformNulls())
    assert selections.best == {"test": (math.inf, 0), "held-out": (math.inf, 0)}
    assert selections.weights == {}
    history, states = [], []
    model = small_model()
    for epoch in range(1, 13):
        model.load_state_dict(small_model(seed=epoch).state_dict())
        history.append(selections.update(model, epoch, nullcontext))
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        for name in sets:
            losses = [losses[name] for losses in history]
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
    model, selections = small_model(), BestCheckpoints({"test": some_images()}, None)
    for epoch in (1, 2):
        selections.update(model, epoch, nullcontext)
    assert selections.best["test"][1] == 1


def test_nothing_to_select_on_measures_nothing() -> None:
    selections = BestCheckpoints({}, UniformNulls())
    assert selections.update(small_model(), 1, nullcontext) == {}
    assert selections.weights == {}
