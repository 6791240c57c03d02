"""What one training step does, against the sources' own formulas written plainly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_cases import MadeBy
from worlds import noise_images, seeded, small_network

from nullclass.models import Classifier
from nullclass.nulls import (
    AdversarialNulls,
    AnyOf,
    CCATNulls,
    MixedNulls,
    NullImages,
    NullProbabilities,
    NullSource,
    UniformNulls,
)
from nullclass.results.null_curve import NullCurve
from nullclass.training.config import TrainConfig
from nullclass.training.recipes import Recipe
from nullclass.training.steps import (
    StepContext,
    StepLosses,
    null_cross_entropy,
    replace_with_nulls,
    step_append_nulls,
    step_replace_with_nulls,
)

NUM_CLASSES = 4


def small_model(num_nulls: int = 1) -> Classifier:
    return small_network(num_nulls).double()


def batch(num: int = 12) -> tuple[Tensor, Tensor]:
    images, labels = noise_images(num)
    return images.double(), labels


def append(
    model: Classifier, images: Tensor, labels: Tensor, nulls: NullSource | None,
    weight: float = 1.0, fraction: float = 1.0, **recipe: Any,
) -> StepLosses:  # fmt: skip
    config = TrainConfig(Recipe(nulls_per_image=fraction, **recipe), null_weight=weight)
    context = StepContext(model, config, nulls, seeded(7))
    return step_append_nulls(context, images.clone(), labels)


def replace(
    model: Classifier, images: Tensor, labels: Tensor, nulls: NullSource | None, **recipe: Any
) -> StepLosses:
    context = StepContext(model, TrainConfig(Recipe(**recipe), replace_rate=0.5), nulls, seeded(7))
    return step_replace_with_nulls(context, images, labels)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_same_gradients(one: nn.Module, other: nn.Module) -> None:
    for left, right in zip(gradients(one), gradients(other), strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-4)


NUMBERED = MadeBy(lambda images: 1 - images / 2)
"""Null images that show which image they were made from."""


# Null images that replace images


@pytest.mark.parametrize("rate", [0.1, 0.35, 0.5])
def test_the_number_of_null_images_is_binomial(rate: float) -> None:
    images, labels = batch(32)
    generator, draws, source = seeded(7), 4000, MadeBy()
    source.calls = _Forgetful()
    counts = [replace_with_nulls(images, labels, source, generator, rate)[2] for _ in range(draws)]
    drawn = torch.tensor(counts, dtype=torch.float64)
    mean, variance = 32 * rate, 32 * rate * (1 - rate)
    assert drawn.min() >= 0
    assert drawn.max() <= 32
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / draws))
    # The variance of a sample's variance, from the fourth central moment of the binomial.
    fourth = variance * (1 + 3 * (32 - 2) * rate * (1 - rate))
    spread = math.sqrt((fourth - variance**2) / draws)
    assert float(drawn.var()) == pytest.approx(variance, abs=4 * spread)
    skew = ((drawn - mean) ** 3).mean() / variance**1.5
    assert float(skew) == pytest.approx((1 - 2 * rate) / math.sqrt(variance), abs=0.17)
    neighbours = torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]))[0, 1]
    assert abs(float(neighbours)) < 4 / math.sqrt(draws), "drawn anew in every step"


class _Forgetful(list[Any]):
    def append(self, item: Any) -> None:
        pass


def test_null_images_are_at_the_end_in_the_place_of_real_ones() -> None:
    images, labels = batch()
    before = images.clone(), labels.clone()
    numbers = set()
    generator = seeded(7)
    for _ in range(30):
        mixed, targets, num_nulls = replace_with_nulls(images, labels, NUMBERED, generator, 0.5)
        num_real = len(images) - num_nulls
        assert mixed.shape == images.shape
        assert targets.dtype == labels.dtype
        assert torch.equal(mixed[:num_real], images[:num_real])
        assert torch.equal(targets[:num_real], labels[:num_real])
        assert torch.equal(mixed[num_real:], 1 - images[num_real:] / 2), "made from these"
        assert targets[num_real:].tolist() == [-1] * num_nulls
        numbers.add(num_nulls)
    assert len(numbers) > 4
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
    mixed, targets, num_nulls = replace_with_nulls(images, labels, NUMBERED, generator, 0.0)
    assert (num_nulls, torch.equal(mixed, images), torch.equal(targets, labels)) == (0, True, True)


@pytest.mark.parametrize("source", [NUMBERED, UniformNulls(), MixedNulls(), None])
def test_replacing_the_gradient_is_that_of_the_mean_loss_over_the_mixed_batch(
    source: NullSource | None,
) -> None:
    images, labels = batch()
    model, plain = small_model(), small_model()
    passes: list[int] = []
    model.register_forward_hook(lambda module, args, out: passes.append(len(args[0])))
    losses = replace(model, images, labels, source)
    assert passes == [12], "one forward pass"

    mixed, mixed_labels, num_nulls = images, labels, 0
    if source is not None:
        mixed, mixed_labels, num_nulls = replace_with_nulls(images, labels, source, seeded(7), 0.5)
        assert num_nulls > 0
    logits = plain(mixed)
    targets = [4 if label < 0 else label for label in mixed_labels.tolist()]
    each = [-logits[i].log_softmax(0)[target] for i, target in enumerate(targets)]
    (sum(each) / len(each)).backward()
    assert_same_gradients(model, plain)
    assert losses.loss == pytest.approx(float(sum(each).detach()) / len(each))
    expected = float(sum(each[-num_nulls:]).detach()) / num_nulls if num_nulls else None
    assert losses.null_loss == pytest.approx(expected)
    outputs = logits.argmax(dim=1).tolist()
    assert losses.num_correct == sum(a == t for a, t in zip(outputs, targets, strict=True))


# Null images appended


CURVE = NullCurve("linf", (0.1, 0.3), (0.4, 1.0))

SOURCES: dict[str, Callable[[Classifier], NullSource]] = {
    "hard": lambda model: AdversarialNulls(model, 0.1),
    "probabilities": lambda model: NullProbabilities(model, CURVE, "fgsm"),
    "probabilities without the gradient": lambda model: NullProbabilities(model, CURVE, "noise"),
    # So far that the box ends each climb elsewhere: within a smaller ball all end at its edge.
    "ccat": lambda model: CCATNulls(model, 1.0, num_steps=1, power=0.5),
    "any of": lambda model: AnyOf([UniformNulls(), NullProbabilities(model, CURVE, "fgsm")]),
}


def null_loss_by_hand(
    model: Classifier, images: Tensor, labels: Tensor, null_probs: Tensor | None
) -> Tensor:
    """-(1 - p) log p_y - p log p_null, image by image; without a null class over all classes."""
    logs = model.body((images - 0.5) / 0.25).log_softmax(dim=1)
    losses = []
    for i, label in enumerate(labels.tolist()):
        p = 1.0 if null_probs is None or label == -1 else float(null_probs[i])
        if model.num_nulls == 0:
            null = sum(logs[i, k] for k in range(NUM_CLASSES)) / NUM_CLASSES
        else:
            null = logs[i, NUM_CLASSES + (label if model.num_nulls > 1 else 0)]
        kept = (1 - p) * logs[i, label] if label >= 0 else 0.0
        losses.append(-kept - p * null)
    return torch.stack(losses)


@pytest.mark.parametrize("num_nulls", [0, 1, NUM_CLASSES])
@pytest.mark.parametrize(
    ("name", "weight", "num"),
    [
        ("hard", 1 / 11, 12),
        ("hard", 0.0, 6),
        ("hard", 2.0, 1),
        *((name, 0.7, 9) for name in SOURCES),
    ],
)
def test_appending_the_gradient_is_that_of_the_loss_written_out(
    name: str, weight: float, num: int, num_nulls: int
) -> None:
    images, labels = batch()
    model, plain = small_model(num_nulls), small_model(num_nulls)
    source = SOURCES[name](model)
    losses = append(model, images, labels, source, weight, max(0.01, (num - 0.4) / 12))

    x = images.clone().requires_grad_()
    logits = plain.body((x - 0.5) / 0.25)
    loss = F.cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    part = images[:num].clone()
    if source.needs_image_gradient:
        part.grad = gradient[:num]
    made = SOURCES[name](plain)(part, labels[:num], seeded(7))
    null_loss = null_loss_by_hand(plain, made.images, labels[:num], made.null_probs).mean()
    (loss + weight * null_loss).backward()
    assert_same_gradients(model, plain)
    num_correct = int((logits.argmax(dim=1) == labels).sum())
    expected = (pytest.approx(loss.item()), pytest.approx(null_loss.item()), num_correct)
    assert losses == StepLosses(*expected)
    if source.is_soft:
        assert made.null_probs is not None
        assert len(set(made.null_probs.tolist())) > 1, "a fair case"


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("null_probs", [None, [0.0, 0.3, 0.5, 0.8, 1.0, 0.1]])
@pytest.mark.parametrize("num_nulls", [0, 1, NUM_CLASSES])
def test_the_loss_of_null_images(num_nulls: int, null_probs: Any, reduction: Any) -> None:
    model, (images, labels) = small_model(num_nulls), batch(6)
    if num_nulls < 2:
        labels[4] = -1  # your own null image
    made = NullImages(images, None if null_probs is None else torch.tensor(null_probs))
    with torch.no_grad():
        logits = model.all_logits(images)
        found = null_cross_entropy(model, logits, labels, made, reduction=reduction)
        expected = null_loss_by_hand(model, images, labels, made.null_probs).float()
    if reduction != "none":
        expected = getattr(expected, reduction)()
    torch.testing.assert_close(found, expected)


def test_a_prediction_of_any_null_logit_is_correct_for_null_and_wrong_for_a_class() -> None:
    images, labels = batch(8)
    for num_nulls in (1, NUM_CLASSES):
        for output in range(NUM_CLASSES + num_nulls):
            model = small_model(num_nulls)
            with torch.no_grad():
                model.body[3].bias[output] += 100
            num_correct = append(model, images, labels, None).num_correct
            assert num_correct == (2 if output < NUM_CLASSES else 0)
            if num_nulls == 1:
                num_correct = append(model, images, torch.full_like(labels, -1), None).num_correct
                assert num_correct == (8 if output == NUM_CLASSES else 0)


def test_without_null_images_it_is_plain_training() -> None:
    images, labels = batch()
    labels[3] = -1  # your own null image
    model, plain = small_model(), small_model()
    losses = append(model, images, labels, None)
    F.cross_entropy(plain(images), labels.where(labels >= 0, NUM_CLASSES)).backward()
    assert_same_gradients(model, plain)
    assert losses.null_loss is None
    assert images.grad is None, "not needed"


def double_step(step: Callable[..., Any], model: Classifier, *args: Any) -> None:
    """Gradients add to those that are there."""
    step(model, *args)
    once = gradients(model)
    step(model, *args)
    for one, other in zip(gradients(model), once, strict=True):
        torch.testing.assert_close(one, 2 * other)


def test_gradients_are_added_and_layers_run_in_the_precision_of_the_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nullclass.training.steps.supports_bfloat16", lambda device: True)
    images, labels = batch()
    dtypes: list[torch.dtype] = []
    cases: list[tuple[Callable[..., Any], Callable[[Classifier], NullSource]]] = [
        (append, lambda model: UniformNulls()),
        (append, lambda model: CCATNulls(model, num_steps=1)),
        (append, lambda model: NullProbabilities(model, CURVE, "pgd")),
        (replace, lambda model: UniformNulls()),
    ]
    for step, make in cases:
        model = small_model()
        double_step(step, model, images, labels, make(model))
        model = small_model().float()
        dtypes.clear()
        model.body[3].register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
        step(model, images.float(), labels, make(model), precision="bfloat16")
        assert set(dtypes) == {torch.bfloat16}
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
