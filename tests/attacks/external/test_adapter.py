"""What every adapter does around its library, with libraries made up for the purpose."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import Digits, fooled, outcome_of, seeded, two_input_world

from nullclass.attacks.external import ExternalAttack, KClassView, LibraryInput
from nullclass.attacks.external.library import Library
from nullclass.attacks.losses import find_objective
from nullclass.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Scripted(ExternalAttack):
    """A library that does what it is given, and remembers its inputs."""

    does: Callable[[LibraryInput], Tensor] = lambda given: given.images
    inputs: list[LibraryInput] = field(default_factory=list)
    library: ClassVar[Library] = Library("json", "json", "it is there")

    def run_library(self, given: LibraryInput) -> Tensor:
        self.inputs.append(given)
        return self.does(given)


def test_grouped_shows_one_class_at_a_time(digits: Digits) -> None:
    images, labels = digits.images[:60], digits.labels[:60]
    attack = Scripted()
    attack(digits.guarded, images, labels, eps=0.1, batch_size=4)
    is_fooled = fooled(digits.guarded, images, labels)
    assert sum(len(given.images) for given in attack.inputs) == 60 - int(is_fooled.sum())
    for given in attack.inputs:
        assert isinstance(given.network, KClassView)
        assert set(given.labels.tolist()) == {given.network.label}
        assert given.num_logits == given.network(given.images).shape[1] == 10
        assert len(given.images) <= 4
        assert not given.is_targeted
        assert given.eps == 0.1, "not its float32 neighbour"


def test_targeted_takes_every_wrong_real_class_once(digits: Digits) -> None:
    images, labels = digits.images[:20], digits.labels[:20]
    attack = Scripted(view="targeted")
    attack(digits.guarded, images, labels, eps=0.1)
    assert len(attack.inputs) == 9
    targets = torch.stack([given.labels for given in attack.inputs], dim=1)
    order = [images.tolist().index(image) for image in attack.inputs[0].images.tolist()]
    is_true = torch.nn.functional.one_hot(labels[order], 11).bool()
    logits = digits.guarded(images)[order].masked_fill(is_true, -torch.inf)
    assert torch.equal(targets, logits[:, :10].argsort(dim=1, descending=True)[:, :9])
    assert all(given.is_targeted and given.num_logits == 11 for given in attack.inputs)


def test_plain_treats_null_as_a_class() -> None:
    model, image, label = two_input_world(a=0.1, b=0.4)
    attack = Scripted(does=lambda given: given.images + torch.tensor([0.2, 0.0]), view="plain")
    adv_images = attack(model, image, label, eps=0.3)
    assert attack.objective == "untargeted"
    assert attack.inputs[0].num_logits == 3
    assert attack.inputs[0].network is model
    assert outcome_of(model, adv_images, label) == ["null"]
    attack(model, adv_images, label, eps=0.3)
    assert len(attack.inputs) == 1, "null is a success"


def test_only_active_images_are_attacked() -> None:
    model, image, label = two_input_world(a=0.3, b=0.1)
    images, labels = image.repeat(3, 1, 1, 1), label.repeat(3)
    success = image + torch.tensor([0.0, 0.2])
    attack = Scripted(does=lambda given: torch.cat([success, given.images[1:]]))
    adv_images = attack(model, images, labels, eps=0.25, batch_size=2)
    assert [len(given.images) for given in attack.inputs] == [2, 1]
    assert outcome_of(model, adv_images, labels) == ["fooled", "correct", "fooled"]
    attack.inputs.clear()
    attack(model, adv_images, labels, eps=0.25)
    assert len(attack.inputs[0].images) == 1, "the others are fooled before the attack"
    attack.inputs.clear()
    assert attack(model, image[:0], label[:0], eps=0.1).shape == (0, 1, 1, 2)
    assert not attack.inputs


def test_results_are_projected_into_ball_and_box() -> None:
    model, image, label = two_input_world(a=0.3, b=0.1)
    for norm, eps, order in (("linf", 0.3, torch.inf), ("l2", 0.45, 2), ("l1", 0.5, 1)):
        attack = Scripted(does=lambda given: given.images + torch.tensor([-1.0, 7.0]))
        adv_images = attack(model, image, label, eps=eps, norm=norm)
        assert torch.linalg.vector_norm(adv_images - image, ord=order) <= eps + 1e-6
        assert 0 <= adv_images.min() <= adv_images.max() <= 1
        assert outcome_of(model, adv_images, label) == ["fooled"]


def test_images_with_nan_are_discarded() -> None:
    model, image, label = two_input_world(a=0.3, b=0.1)

    def half_broken(given: LibraryInput) -> Tensor:
        adv_images = given.images.clone()
        adv_images[0, ..., 0] = torch.nan
        adv_images[1, ..., 1] += 0.2
        return adv_images

    images, labels = image.repeat(2, 1, 1, 1), label.repeat(2)
    adv_images = Scripted(does=half_broken)(model, images, labels, eps=0.25)
    assert torch.equal(adv_images[0], image[0])
    assert outcome_of(model, adv_images, labels) == ["correct", "fooled"]


def test_the_best_image_is_kept_without_a_success(digits: Digits) -> None:
    loss = find_objective("fool").loss
    right = loss(digits.guarded(digits.images), digits.labels, 10, "margin") < -1
    images, labels = digits.images[right][:20], digits.labels[right][:20]
    generator, tried = seeded(2), [images]

    def wander(given: LibraryInput) -> Tensor:
        assert len(given.images) == 20
        noise = torch.rand(images.shape, generator=generator) - 0.5
        tried.append((images + 0.004 * noise).clamp(0, 1))
        return tried[-1]

    adv_images = Scripted(does=wander, view="targeted")(digits.guarded, images, labels, eps=0.02)
    assert outcome_of(digits.guarded, adv_images, labels) == ["correct"] * 20
    margins = torch.stack([loss(digits.guarded(x), labels, 10, "margin") for x in tried])
    assert margins.argmax(dim=0).unique().numel() > 3
    expected = torch.stack(tried)[margins.argmax(dim=0), torch.arange(20)]
    torch.testing.assert_close(adv_images, expected)


def test_every_image_gets_its_own_budget(digits: Digits) -> None:
    images, labels = digits.images[:12], digits.labels[:12]
    budgets = torch.tensor([0.0, 0.1, 0.3] * 4)
    attack = Scripted(does=lambda given: given.images + 2 * given.eps, view="plain")
    adv_images = attack(digits.guarded, images, labels, eps=budgets)
    assert {given.eps for given in attack.inputs} == {float(eps) for eps in budgets[1:3]}
    assert torch.equal(adv_images[budgets == 0], images[budgets == 0])
    assert ((adv_images - images).flatten(1).amax(dim=1) <= budgets + 1e-6).all()


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)])
def test_randomness_is_the_generators(seeds: tuple[int, int]) -> None:
    model, image, label = two_input_world(a=0.3, b=0.3)
    drawn: list[tuple[float, ...]] = []

    def draw(given: LibraryInput) -> Tensor:
        drawn.append((float(torch.rand(())), np.random.rand(), random.random()))
        sys.settrace(None)
        return given.images

    def trace(*_: object) -> None:
        return None

    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    old = sys.gettrace()
    sys.settrace(trace)
    try:
        for seed in seeds:
            Scripted(does=draw)(model, image, label, eps=0.1, generator=seeded(seed))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(old)
    assert (drawn[0] == drawn[1]) is (seeds[0] == seeds[1])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_the_model_is_restored_even_when_the_library_fails() -> None:
    model, image, label = two_input_world(a=0.3, b=0.3)
    model.train()
    weight = next(model.parameters())
    weight.grad = kept = torch.ones_like(weight)

    def break_things(given: LibraryInput) -> Tensor:
        assert not given.network.training
        assert not weight.requires_grad
        given.network.train()
        given.network.zero_grad()
        weight.requires_grad_()
        raise RuntimeError("out of order")

    for view in ("grouped", "plain"):
        with pytest.raises(RuntimeError, match="out of order"):
            Scripted(does=break_things, view=view)(model, image, label, eps=0.1)  # type: ignore[arg-type]
        assert model.training
        assert model.body.training
        assert weight.requires_grad
        assert weight.grad is kept


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"view": "sideways"}, {"access": "luck"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Scripted(**wrong)  # type: ignore[arg-type]
