"""What one training step does, against the sources' own formulas written plainly."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from nullclass.training.steps import (
    StepLosses,
    null_cross_entropy,
    replace_with_nulls,
    step_append_nulls,
    step_replace_with_nulls,
)

NUM_CLASSES = 4


def small_model(num_nulls: int = 1) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        output = nn.Linear(12, NUM_CLASSES + num_nulls)
        body = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), output)
    return Classifier(
        body,
        NUM_CLASSES,
        has_null=num_nulls > 0,
        num_nulls=max(1, num_nulls),
        mean=(0.5,),
        std=(0.25,),
    ).double()


def batch(num: int = 12) -> tuple[Tensor, Tensor]:
    images = torch.rand(num, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return images.double(), torch.arange(num) % NUM_CLASSES


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def stream(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Numbered:
    """Null images that tell which image they were made from."""

    needs_image_gradient = False
    is_soft = False

    def settings(self) -> dict[str, Any]:
        return {}

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> NullImages:
        return NullImages(1 - images.detach() / 2)


# Within


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5])
def test_the_number_of_null_images_is_binomial(share: float) -> None:
    images, labels = batch(32)
    generator, draws = stream(), 4000
    counts = [
        replace_with_nulls(images, labels, Numbered(), generator, share)[2] for _ in range(draws)
    ]
    drawn = torch.tensor(counts, dtype=torch.float64)
    mean, variance = 32 * share, 32 * share * (1 - share)
    assert drawn.min() >= 0
    assert drawn.max() <= 32
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / draws))
    # The variance of a sample's variance, from the fourth central moment of the binomial.
    fourth = variance * (1 + 3 * (32 - 2) * share * (1 - share))
    spread = math.sqrt((fourth - variance**2) / draws)
    assert float(drawn.var()) == pytest.approx(variance, abs=4 * spread)
    skew = ((drawn - mean) ** 3).mean() / variance**1.5
    assert float(skew) == pytest.approx((1 - 2 * share) / math.sqrt(variance), abs=0.17)
    neighbours = torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]))[0, 1]
    assert abs(float(neighbours)) < 4 / math.sqrt(draws), "drawn anew in every step"


def test_null_images_stand_at_the_end_in_the_place_of_real_ones() -> None:
    images, labels = batch()
    before = images.clone(), labels.clone()
    seen = set()
    generator = stream()
    for _ in range(30):
        mixed, told, num_nulls = replace_with_nulls(images, labels, Numbered(), generator, 0.5)
        num_real = len(images) - num_nulls
        assert mixed.shape == images.shape
        assert told.dtype == labels.dtype
        assert torch.equal(mixed[:num_real], images[:num_real])
        assert torch.equal(told[:num_real], labels[:num_real])
        assert torch.equal(mixed[num_real:], 1 - images[num_real:] / 2), (
            "made from what they replace"
        )
        assert told[num_real:].tolist() == [-1] * num_nulls
        seen.add(num_nulls)
    assert len(seen) > 4
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


def test_a_share_of_nothing_and_no_source_leave_the_batch_as_it_is() -> None:
    images, labels = batch()
    for nulls, share in ((Numbered(), 0.0), (None, 0.5)):
        mixed, told, num_nulls = replace_with_nulls(images, labels, nulls, stream(), share)
        assert num_nulls == 0
        assert torch.equal(mixed, images)
        assert torch.equal(told, labels)


@pytest.mark.parametrize("source", [Numbered(), UniformNulls(), MixedNulls(), None])
def test_within_the_gradient_is_that_of_the_mean_loss_over_the_mixed_batch(
    source: NullSource | None,
) -> None:
    images, labels = batch()
    model = small_model()
    told = step_replace_with_nulls(model, images, labels, source, stream(), nullcontext, 0.5)
    found = gradients(model)

    mixed, mixed_labels, num_nulls = replace_with_nulls(images, labels, source, stream(), 0.5)
    plain = small_model()
    logits = plain(mixed)
    targets = [4 if label < 0 else label for label in mixed_labels.tolist()]
    losses = [-logits[i].log_softmax(0)[target] for i, target in enumerate(targets)]
    (sum(losses) / len(losses)).backward()
    for one, other in zip(found, gradients(plain), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert told.loss == pytest.approx(float(sum(losses).detach()) / len(losses))
    assert (source is None) == (num_nulls == 0)
    if num_nulls:
        assert told.null_loss == pytest.approx(float(sum(losses[-num_nulls:]).detach()) / num_nulls)
    else:
        assert told.null_loss is None
    answers = logits.argmax(dim=1).tolist()
    assert told.num_correct == sum(a == t for a, t in zip(answers, targets, strict=True))


def test_within_the_step_is_one_forward_pass() -> None:
    images, labels = batch()
    model = small_model()
    calls: list[int] = []
    model.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    step_replace_with_nulls(model, images, labels, UniformNulls(), stream(), nullcontext, 0.5)
    assert calls == [12]


# Beside


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.01])
@pytest.mark.parametrize("weight", [0.0, 1 / 11, 2.0])
def test_beside_the_gradient_is_the_notebooks_formula(weight: float, fraction: float) -> None:
    images, labels = batch()
    model = small_model()
    told = step_append_nulls(
        model, images.clone(), labels, AdversarialNulls(model, 0.1), stream(), nullcontext,
        weight, fraction,
    )  # fmt: skip
    found = gradients(model)

    plain = small_model()
    x = images.clone().requires_grad_()
    logits = plain(x)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    num = max(1, round(12 * fraction))
    nulls = (x.detach() + 0.1 * x.grad.sign()).clamp(0, 1)[:num]
    null_loss = F.cross_entropy(plain(nulls), torch.full((num,), NUM_CLASSES))
    (weight * null_loss).backward()
    for one, other in zip(found, gradients(plain), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    num_correct = int((logits.argmax(dim=1) == labels).sum())
    assert told == StepLosses(
        pytest.approx(loss.item()), pytest.approx(null_loss.item()), num_correct
    )


CURVE = NullCurve("linf", (0.1, 0.3), (0.4, 1.0))

SOURCES = {
    "hard": lambda model: AdversarialNulls(model, 0.1),
    "probabilities": lambda model: NullProbabilities(model, CURVE, "fgsm"),
    "probabilities without the gradient": lambda model: NullProbabilities(model, CURVE, "noise"),
    # So far that the box ends each climb elsewhere: within a smaller ball all end at its edge.
    "ccat": lambda model: CCATNulls(model, 1.0, num_steps=1, power=0.5),
    "any of": lambda model: AnyOf(
        {"uniform": UniformNulls(), "soft": NullProbabilities(model, CURVE, "fgsm")}
    ),
}


def null_loss_by_hand(
    model: Classifier, images: Tensor, labels: Tensor, shares: Tensor | None
) -> Tensor:
    """-(1 - p) log p_y - p log p_null, image by image; without a null class over all classes."""
    logs = model.body((images - 0.5) / 0.25).log_softmax(dim=1)
    losses = []
    for i, label in enumerate(labels.tolist()):
        share = 1.0 if shares is None or label == -1 else float(shares[i])
        if model.num_nulls == 0:
            null = sum(logs[i, k] for k in range(NUM_CLASSES)) / NUM_CLASSES
        else:
            null = logs[i, NUM_CLASSES + (label if model.num_nulls > 1 else 0)]
        kept = (1 - share) * logs[i, label] if label >= 0 else 0.0
        losses.append(-kept - share * null)
    return torch.stack(losses)


@pytest.mark.parametrize("num_nulls", [0, 1, NUM_CLASSES])
@pytest.mark.parametrize("name", SOURCES)
def test_beside_the_gradient_is_that_of_the_whole_loss_written_out(
    name: str, num_nulls: int
) -> None:
    weight, num = 0.7, 9
    images, labels = batch()
    model = small_model(num_nulls)
    source = SOURCES[name](model)
    told = step_append_nulls(
        model, images.clone(), labels, source, stream(), nullcontext, weight, num / 12
    )
    found = gradients(model)

    plain = small_model(num_nulls)
    x = images.clone().requires_grad_()
    logits = plain.body((x - 0.5) / 0.25)
    loss = F.cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    part = images[:num].clone()
    if source.needs_image_gradient:
        part.grad = gradient[:num]
    made = SOURCES[name](plain)(part, labels[:num], stream())
    null_loss = null_loss_by_hand(plain, made.images, labels[:num], made.null_probs).mean()
    (loss + weight * null_loss).backward()
    for one, other in zip(found, gradients(plain), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    num_correct = int((logits.argmax(dim=1) == labels).sum())
    assert told == StepLosses(
        pytest.approx(loss.item()), pytest.approx(null_loss.item()), num_correct
    )
    if source.is_soft:
        assert made.null_probs is not None
        assert len(set(made.null_probs.tolist())) > 1, "a fair case"


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shares", [None, [0.0, 0.3, 0.5, 0.8, 1.0, 0.1]])
@pytest.mark.parametrize("num_nulls", [0, 1, NUM_CLASSES])
def test_the_loss_of_null_images(num_nulls: int, shares: Any, reduction: Any) -> None:
    model, (images, labels) = small_model(num_nulls), batch(6)
    if num_nulls < 2:
        labels[4] = -1  # a null image of one's own
    made = NullImages(images, None if shares is None else torch.tensor(shares))
    with torch.no_grad():
        logits = model.all_logits(images)
        found = null_cross_entropy(model, logits, labels, made, reduction=reduction)
        expected = null_loss_by_hand(model, images, labels, made.null_probs).float()
    if reduction != "none":
        expected = getattr(expected, reduction)()
    torch.testing.assert_close(found, expected)


def test_an_answer_of_any_null_logit_is_right_for_null_and_wrong_for_a_class() -> None:
    images, labels = batch(8)
    for num_nulls in (1, NUM_CLASSES):
        for answered in range(NUM_CLASSES + num_nulls):
            model = small_model(num_nulls)
            with torch.no_grad():
                model.body[3].bias[answered] += 100
            told = step_append_nulls(
                model, images.clone(), labels, None, stream(), nullcontext, 1.0, 1.0
            )
            assert told.num_correct == (2 if answered < NUM_CLASSES else 0)
            if num_nulls == 1:
                null = torch.full_like(labels, -1)
                told = step_append_nulls(
                    model, images.clone(), null, None, stream(), nullcontext, 1.0, 1.0
                )
                assert told.num_correct == (8 if answered == NUM_CLASSES else 0)


def test_beside_without_null_images_is_plain_training() -> None:
    images, labels = batch()
    labels[3] = -1  # a null image of one's own
    model, plain = small_model(), small_model()
    told = step_append_nulls(model, images, labels, None, stream(), nullcontext, 1.0, 1.0)
    F.cross_entropy(plain(images), labels.where(labels >= 0, NUM_CLASSES)).backward()
    for one, other in zip(gradients(model), gradients(plain), strict=True):
        torch.testing.assert_close(one, other)
    assert told.null_loss is None
    assert images.grad is None, "nobody asked for it"


def test_gradients_are_added_to_what_is_there() -> None:
    images, labels = batch()
    for step in (
        lambda model: step_append_nulls(model, images.clone(), labels, UniformNulls(), stream(),
                                  nullcontext, 1.0, 1.0),
        lambda model: step_append_nulls(model, images.clone(), labels,
                                  CCATNulls(model, num_steps=1),
                                  stream(), nullcontext, 1.0, 1.0),
        lambda model: step_replace_with_nulls(model, images, labels, UniformNulls(), stream(),
        nullcontext,
                                  0.5),
    ):  # fmt: skip
        model = small_model()
        step(model)
        once = gradients(model)
        step(model)
        for one, other in zip(gradients(model), once, strict=True):
            torch.testing.assert_close(one, 2 * other)


def test_the_layers_run_in_the_precision_that_is_asked_for_and_the_loss_in_float32() -> None:
    images, labels = batch()
    dtypes: list[torch.dtype] = []

    def precision() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)

    for step in (
        lambda model: step_append_nulls(model, images.float(), labels, UniformNulls(), stream(),
                                  precision, 1.0, 1.0),
        lambda model: step_append_nulls(model, images.float(), labels,
                                  CCATNulls(model, num_steps=1),
                                  stream(), precision, 1.0, 1.0),
        lambda model: step_append_nulls(model, images.float(), labels,
                                  NullProbabilities(model, CURVE, "pgd"), stream(), precision,
                                  1.0, 1.0),
        lambda model: step_replace_with_nulls(model, images.float(), labels, UniformNulls(),
        stream(),
                                  precision, 0.5),
    ):  # fmt: skip
        model = small_model().float()
        model.body[3].register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
        step(model)
        assert set(dtypes) == {torch.bfloat16}
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
        dtypes.clear()
