"""Gates by hand: attacks see through them, whatever they are made of, and sound models stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from worlds import Affine, noise_images, small_network

import nullclass
from nullclass.attacks.steps import input_gradient
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.rejection import (
    SCORES,
    ProvableNull,
    ThroughGate,
    null_scores,
    reject_by,
    see_through,
    with_threshold,
)

B, TAU = 0.1, 0.0625
OPTIMUM = 2 * B - TAU
"""The image of :func:`network` and :func:`score` can be fooled within more than this."""


def network() -> Classifier:
    """Two pixels: class 1 needs the second to rise by B from (0.5, 0.5)."""
    weight, bias = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, -0.5 - B])
    return Classifier(Affine(weight, bias), 2, has_null=False)


def score(images: Tensor) -> Tensor:
    """It rises twice as fast with the second pixel, and falls with the first."""
    first, second = (images.flatten(1) - 0.5).unbind(dim=1)
    return 2 * second - first


def where(z: Tensor, s: Tensor) -> Tensor:
    top = z.amax(dim=1)
    return torch.where(s > TAU, top + 1, top - 1)


def written_into(z: Tensor, s: Tensor) -> Tensor:
    null = torch.full_like(s, -100)
    null[s > TAU] = 100
    return null


def rounded(z: Tensor, s: Tensor) -> Tensor:
    return z.amax(dim=1) + ((s - TAU) * 2**10).ceil() / 2**10


GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "where": where,
    "constants": lambda z, s: torch.where(s <= TAU, -100.0, 100.0),
    "written into": written_into,
    "a number": lambda z, s: z.amax(dim=1) + 2 * (s > TAU).float() - 1,
    "a sign": lambda z, s: z.amax(dim=1) + (s - TAU).sign(),
    "a column": lambda z, s: where(z, s[:, None].squeeze(1)),
    "two comparisons": lambda z, s: torch.where((s > TAU) | (s - 9 > TAU), 100.0, -100.0),
    "two that agree": lambda z, s: torch.where((s > TAU) & (s > TAU - 9), 100.0, -100.0),
    "rounded": rounded,
}


def gated(gate: Callable[[Tensor, Tensor], Tensor]) -> Classifier:
    inside = network()

    def forward(images: Tensor) -> Tensor:
        z = inside(images)
        return torch.cat([z, gate(z, score(images))[:, None]], dim=1)

    return Classifier(forward, 2)


@pytest.mark.parametrize("name", GATES)
def test_attacks_reach_the_known_optimum_through_a_gate(name: str) -> None:
    model = gated(GATES[name])
    image = LabelledImages(torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), 2)
    for factor in (0.95, 1.1):
        eps = factor * OPTIMUM
        found = nullclass.evaluate(model, image, attacks="pgd", eps=eps, checks=False, seed=1)
        assert found.rate("aer", eps=eps) == (factor > 1)


@pytest.mark.parametrize("name", GATES)
def test_answers_are_those_of_the_model_and_the_gradient_that_of_the_score(name: str) -> None:
    model, images = gated(GATES[name]), torch.rand(60, 1, 1, 2)
    through = see_through(model, images[:16])
    assert isinstance(through, ThroughGate)
    assert torch.equal(through(images), model(images))
    traced = through(images.clone().requires_grad_())
    assert torch.equal(traced.argmax(dim=1), model(images).argmax(dim=1))
    gradient, _ = input_gradient(through, images, lambda logits: null_scores(logits, 2))
    expected, _ = input_gradient(nn.Flatten(), images, lambda pixels: score(pixels[:, None, None]))
    if name != "two comparisons":  # the largest of two equal scores
        torch.testing.assert_close(gradient, through.scale * expected)


def by_keywords(images: Tensor) -> Tensor:
    z, s = network()(images), torch.round(input=score(images) * 2**10) / 2**10
    is_null = torch.gt(input=s, other=TAU)
    return torch.cat([z, torch.where(is_null, 100.0, -100.0)[:, None]], dim=1)


def test_arguments_by_keyword_are_seen() -> None:
    through = see_through(Classifier(by_keywords, 2), torch.rand(16, 1, 1, 2))
    assert isinstance(through, ThroughGate)
    gradient, _ = input_gradient(
        through, torch.rand(9, 1, 1, 2), lambda logits: null_scores(logits, 2)
    )
    assert (gradient != 0).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("name", GATES)
def test_parts_smaller_than_a_batch_are_not_seen_through(name: str) -> None:
    """Which of the recorded comparisons decides on null would depend on the size of the batch."""
    whole = gated(GATES[name])
    model = Classifier(lambda x: torch.cat([whole(part) for part in x.split(8)]), 2)
    through = see_through(model, torch.rand(16, 1, 1, 2))
    for size in (1, 6, 50):
        images = torch.rand(size, 1, 1, 2)
        answers = through(images.clone().requires_grad_()).argmax(1)
        assert torch.equal(answers, model(images).argmax(1))


@pytest.mark.parametrize("name", GATES)
def test_a_network_that_computes_in_parts_keeps_its_gradient(name: str) -> None:
    whole = gated(GATES[name])
    in_parts = Classifier(lambda x: torch.cat([whole(part) for part in x.split(64)]), 2)
    through = see_through(in_parts, torch.rand(16, 1, 1, 2))
    images = torch.rand(150, 1, 1, 2)
    expected, _ = input_gradient(
        see_through(whole, torch.rand(16, 1, 1, 2)), images, lambda z: null_scores(z, 2)
    )
    gradient, _ = input_gradient(through, images, lambda z: null_scores(z, 2))
    is_same = (gradient != 0).flatten(1).any(dim=1) == (expected != 0).flatten(1).any(dim=1)
    assert is_same.all()
    assert (gradient != 0).flatten(1).any(dim=1).double().mean() > 0.9
    assert torch.equal(
        through(images.clone().requires_grad_()).argmax(1), in_parts(images).argmax(1)
    )


def in_numpy(images: Tensor) -> Tensor:
    z = network()(images)
    is_null = score(images).detach().numpy() > TAU
    null = z.amax(dim=1) + torch.from_numpy(np.where(is_null, 1, -1))
    return torch.cat([z, null[:, None]], dim=1)


def sound_models() -> list[Classifier]:
    plain = small_network(0)
    leaky = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))

    def by_hand(images: Tensor) -> Tensor:
        z = leaky(images)
        return torch.where(z > 0, z, 0.1 * z)

    return [
        plain,
        small_network(),
        ProvableNull(plain, 0.01),
        Classifier(by_hand, 4),
        *(reject_by(plain, name, 0.1) for name in SCORES if name != "null-logit"),
        with_threshold(small_network(), 0.2),
    ]


@pytest.mark.parametrize("model", sound_models(), ids=range(9))
def test_models_without_a_gate_stay_as_they_are(model: Classifier) -> None:
    assert see_through(model, noise_images()[0]) is model


def test_what_numpy_compares_is_not_seen() -> None:
    model = Classifier(in_numpy, 2)
    assert see_through(model, torch.rand(16, 1, 1, 2)) is model
