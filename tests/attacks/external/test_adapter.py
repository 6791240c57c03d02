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
from worlds import Digits, outcome_of, two_input_world

from nullclass.attacks.external import ExternalAttack, KClassView, LibraryInput
from nullclass.attacks.external.library import Library
from nullclass.attacks.losses import find_objective
from nullclass.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Scripted(ExternalAttack):
    """A library that does as it is told and remembers what it was given."""

    does: Callable[[LibraryInput], Tensor]
    tasks: list[LibraryInput] = field(default_factory=list)
    library: ClassVar[Library] = Library("json", "json", "it is there")

    def run_library(self, task: LibraryInput) -> Tensor:
        self.tasks.append(task)
        return self.does(task)


def idle(task: LibraryInput) -> Tensor:
    return task.images


def test_grouped_shows_one_class_at_a_time(digits: Digits) -> None:
    images, labels = digits.images[:60], digits.labels[:60]
    attack = Scripted(does=idle, batch_size=4)
    attack(digits.guarded, images, labels, eps=0.1)
    is_fooled = [told == "fooled" for told in outcome_of(digits.guarded, images, labels)]
    assert sum(len(task.images) for task in attack.tasks) == 60 - sum(is_fooled)
    for task in attack.tasks:
        assert isinstance(task.network, KClassView)
        assert set(task.labels.tolist()) == {task.network.label}
        assert task.num_logits == task.network(task.images).shape[1] == 10
        assert len(task.images) <= 4
        assert not task.is_targeted


def test_targeted_aims_at_every_wrong_real_class_once(digits: Digits) -> None:
    images, labels = digits.images[:20], digits.labels[:20]
    attack = Scripted(does=idle, view="targeted")
    attack(digits.guarded, images, labels, eps=0.1)
    assert len(attack.tasks) == 9
    aimed = torch.stack([task.labels for task in attack.tasks], dim=1)
    order = [images.tolist().index(image) for image in attack.tasks[0].images.tolist()]
    logits = digits.guarded(images)[order].masked_fill(
        torch.nn.functional.one_hot(labels[order], 11).bool(), -torch.inf
    )
    assert torch.equal(aimed, logits[:, :10].argsort(dim=1, descending=True)[:, :9])
    assert all(task.is_targeted and task.num_logits == 11 for task in attack.tasks)


def test_what_fell_is_left_alone_and_what_stands_is_tried_again() -> None:
    model, image, label = two_input_world(a=0.3, b=0.1)
    images, labels = image.repeat(3, 1, 1, 1), label.repeat(3)
    fooling = image.clone()
    fooling[..., 1] += 0.2

    def fool_the_first(task: LibraryInput) -> Tensor:
        return torch.cat([fooling, task.images[1:]])

    attack = Scripted(does=fool_the_first, batch_size=2)
    adv_images = attack(model, images, labels, eps=0.25)
    assert [len(task.images) for task in attack.tasks] == [2, 1]
    assert outcome_of(model, adv_images, labels) == ["fooled", "correct", "fooled"]
    again = Scripted(does=fool_the_first)
    again(model, adv_images, labels, eps=0.25)
    assert len(again.tasks[0].images) == 1, "fooled before the attack"


def test_answers_are_pulled_into_ball_and_box() -> None:
    model, image, label = two_input_world(a=0.3, b=0.1)
    for norm, eps, size in (("linf", 0.3, torch.inf), ("l2", 0.45, 2), ("l1", 0.5, 1)):
        attack = Scripted(does=lambda task: task.images + torch.tensor([-1.0, 7.0]))
        adv_images = attack(model, image, label, eps=eps, norm=norm)
        assert torch.linalg.vector_norm(adv_images - image, ord=size) <= eps + 1e-6
        assert 0 <= adv_images.min() <= adv_images.max() <= 1
        assert outcome_of(model, adv_images, label) == ["fooled"], "no less useful for it"


def test_an_image_of_nans_is_no_answer() -> None:
    model, image, label = two_input_world(a=0.3, b=0.1)
    images = torch.cat([image, image])

    def half_broken(task: LibraryInput) -> Tensor:
        tried = task.images.clone()
        tried[0, ..., 0] = torch.nan
        tried[1, ..., 1] += 0.2
        return tried

    adv_images = Scripted(does=half_broken)(model, images, label.repeat(2), eps=0.25)
    assert torch.equal(adv_images[0], image[0])
    assert outcome_of(model, adv_images, label.repeat(2)) == ["correct", "fooled"]


def test_the_best_try_is_kept_where_none_succeeds(digits: Digits) -> None:
    hard = find_objective("fool").loss
    right = hard(digits.guarded(digits.images), digits.labels, 10, "hard") < -1
    images, labels = digits.images[right][:20], digits.labels[right][:20]
    generator = torch.Generator().manual_seed(2)
    tries = [images]

    def wander(task: LibraryInput) -> Tensor:
        assert len(task.images) == 20, "they all stand"
        noise = torch.rand(images.shape, generator=generator) - 0.5
        tries.append((images + 0.004 * noise).clamp(0, 1))
        return tries[-1]

    adv_images = Scripted(does=wander, view="targeted")(digits.guarded, images, labels, eps=0.02)
    assert outcome_of(digits.guarded, adv_images, labels) == ["correct"] * 20
    margins = torch.stack([hard(digits.guarded(x), labels, 10, "hard") for x in tries])
    assert margins.argmax(dim=0).unique().numel() > 3
    expected = torch.stack(tries)[margins.argmax(dim=0), torch.arange(20)]
    torch.testing.assert_close(adv_images, expected)


def test_plain_has_null_as_just_another_class() -> None:
    model, image, label = two_input_world(a=0.1, b=0.4)
    attack = Scripted(does=lambda task: task.images + torch.tensor([0.2, 0.0]), view="plain")
    adv_images = attack(model, image, label, eps=0.3)
    assert attack.objective == "untargeted"
    assert attack.tasks[0].num_logits == 3
    assert attack.tasks[0].network is model
    assert outcome_of(model, adv_images, label) == ["null"]
    attack(model, adv_images, label, eps=0.3)
    assert len(attack.tasks) == 1, "null is what it wanted"


def test_a_budget_for_each_image_is_given_exactly(digits: Digits) -> None:
    images, labels = digits.images[:12], digits.labels[:12]
    budgets = torch.tensor([0.0, 0.1, 0.3] * 4)
    attack = Scripted(does=lambda task: task.images + 2 * task.eps, view="plain")
    adv_images = attack(digits.guarded, images, labels, eps=budgets)
    wanted = {float(eps) for eps in budgets[1:3]}
    assert {task.eps for task in attack.tasks} == wanted
    assert torch.equal(adv_images[budgets == 0], images[budgets == 0])
    assert ((adv_images - images).flatten(1).amax(dim=1) <= budgets + 1e-6).all()
    one = Scripted(does=idle)
    one(digits.guarded, images, labels, eps=0.1)
    assert {task.eps for task in one.tasks} == {0.1}, "not its float32 neighbour"


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)])
def test_randomness_is_the_generators(seeds: tuple[int, int]) -> None:
    model, image, label = two_input_world(a=0.3, b=0.3)
    drawn: list[tuple[float, ...]] = []

    def draw(task: LibraryInput) -> Tensor:
        drawn.append((float(torch.rand(())), np.random.rand(), random.random()))
        sys.settrace(None)
        return task.images

    def trace(*_: object) -> None:
        return None

    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    old = sys.gettrace()
    sys.settrace(trace)
    try:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            Scripted(does=draw)(model, image, label, eps=0.1, generator=generator)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(old)
    assert (drawn[0] == drawn[1]) is (seeds[0] == seeds[1])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_the_model_is_put_back_even_when_the_library_fails() -> None:
    model, image, label = two_input_world(a=0.3, b=0.3)
    model.train()
    weight = next(model.parameters())
    weight.grad = kept = torch.ones_like(weight)

    def break_things(task: LibraryInput) -> Tensor:
        assert not task.network.training
        assert not weight.requires_grad
        task.network.train()
        task.network.zero_grad()
        weight.requires_grad_()
        raise RuntimeError("out of order")

    for view in ("grouped", "plain"):
        with pytest.raises(RuntimeError, match="out of order"):
            Scripted(does=break_things, view=view)(model, image, label, eps=0.1)  # type: ignore[arg-type]
        assert model.training
        assert model.body.training
        assert weight.requires_grad
        assert weight.grad is kept


def test_settings_that_do_not_exist_are_refused() -> None:
    for wrong in ({"view": "sideways"}, {"form": "min"}, {"access": "luck"}, {"batch_size": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Scripted(does=idle, **wrong)  # type: ignore[arg-type]
    model, image, label = two_input_world(a=0.3, b=0.3)
    with pytest.raises(UserError, match="grey levels"):
        Scripted(does=idle)(model, image, label, eps=8)
    nothing = Scripted(does=idle)
    assert nothing(model, image[:0], label[:0], eps=0.1).shape == (0, 1, 1, 2)
    assert not nothing.tasks
