"""One contract for every source of null images, and the adversarial one against its formula."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nullclass.errors import UserError
from nullclass.losses import cross_entropy
from nullclass.models import Classifier
from nullclass.nulls import NULL_SOURCES, AdversarialNulls, check_settings

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "adversarial": [{"eps": 0.154}, {"eps": 0.1, "num_steps": 3}, {"eps": 1.0}],
}
"""Settings to test a source with; one that is not named here is tested with none."""

CASES = [(name, settings) for name in NULL_SOURCES for settings in SETTINGS.get(name, [{}])]


def small_model() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        body = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 5))
    return Classifier(body, 4, mean=(0.5,), std=(0.25,))


def batch(num: int = 8) -> tuple[Tensor, Tensor]:
    images = torch.rand(num, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(num) % 4


@pytest.mark.parametrize("num", [1, 8])
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_contract(name: str, settings: dict[str, Any], num: int) -> None:
    check_settings(name, settings)
    model = small_model()
    model.body[1].bias.grad = torch.ones(12)
    source = NULL_SOURCES[name](model, **settings)
    assert isinstance(source.needs_image_gradient, bool)
    told = source.settings()
    assert json.loads(json.dumps(told)) == told, "JSON values"
    assert settings.items() <= told.items()
    images, labels = batch(num)
    images.grad = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    before = [t.clone() for t in (images, labels, images.grad)]
    state = copy.deepcopy(model.state_dict())
    stream = torch.get_rng_state()

    nulls = source(images, labels, torch.Generator().manual_seed(9))

    assert nulls.shape == images.shape
    assert nulls.dtype == images.dtype
    assert not nulls.requires_grad
    assert nulls.min() >= 0
    assert nulls.max() <= 1
    assert not torch.equal(nulls, images)
    for now, then in zip((images, labels, images.grad), before, strict=True):
        assert torch.equal(now, then)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    grads = [p.grad for p in model.parameters()]
    assert torch.equal(grads[1], torch.ones(12)), "parameter gradients of the step are not touched"
    assert all(grad is None for index, grad in enumerate(grads) if index != 1)
    assert all(p.requires_grad for p in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), stream)
    again = source(images, labels, torch.Generator().manual_seed(9))
    assert torch.equal(again, nulls)


def test_fgsm_nulls_are_the_formula_with_the_gradient_at_hand() -> None:
    model = small_model()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    images, labels = batch()
    images.requires_grad_()
    cross_entropy(model(images), labels).backward()
    calls.clear()
    nulls = AdversarialNulls(model, eps=0.2)(images, labels)
    assert calls == [], "no second forward pass"
    expected = (images.detach() + 0.2 * images.grad.sign()).clamp(0, 1)
    assert torch.equal(nulls, expected)
    bare = AdversarialNulls(model, eps=0.2)(images.detach(), labels)
    assert calls == [1], "without a gradient at hand it makes one"
    assert torch.equal(bare, expected)


def test_more_steps_climb_higher_within_the_same_ball() -> None:
    model, (images, labels) = small_model(), batch(64)

    def loss(x: Tensor) -> float:
        return float(cross_entropy(model(x), labels).detach())

    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    losses = [loss(images)]
    for num_steps in (1, 10):
        calls.clear()
        nulls = AdversarialNulls(model, eps=0.1, num_steps=num_steps)(images, labels)
        assert len(calls) == num_steps
        assert (nulls - images).abs().max() <= 0.1 + 1e-6
        losses.append(loss(nulls))
    assert losses == sorted(losses)
    images.grad = torch.autograd.grad(
        cross_entropy(model(x := images.clone().requires_grad_()), labels), x
    )[0]
    calls.clear()
    given = AdversarialNulls(model, eps=0.1, num_steps=10)(images, labels)
    assert len(calls) == 9, "the first step uses the gradient at hand"
    torch.testing.assert_close(given, nulls)


@pytest.mark.parametrize(
    "settings",
    [*({"eps": eps} for eps in (0, -0.1, 1.1, 40, float("nan"))), {"eps": 0.1, "num_steps": 0}],
)
def test_senseless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="null images"):
        check_settings("adversarial", settings)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(UserError, match="no null source 'noise': choose one of adversarial"):
        check_settings("noise", {})
