"""Models of hundreds of classes: attacks take the nearest targets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nullclass.attacks import FMN, DatasetAttack, MultiTargetedAPGD, MultiTargetedPGD, worst_case
from nullclass.attacks.counters import count_passes
from nullclass.attacks.dataset import nearest_of_each
from nullclass.attacks.losses import find_objective
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.results.schema import MAX_TARGETS


def steps_of(num_classes: int) -> Classifier:
    """The class of an image is its brightness in K steps: every other class has an image."""
    centres = (torch.arange(num_classes) + 0.5) / num_classes

    def logits(images: Tensor) -> Tensor:
        return -1000 * (images.mean(dim=(1, 2, 3))[:, None] - centres) ** 2

    return Classifier(logits, num_classes, has_null=False)


def grey(values: list[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


@pytest.mark.parametrize("num_classes", [10, 20, 21, 300])
def test_the_nearest_targets_by_default(num_classes: int) -> None:
    """No target is within eps, so every one costs all its steps."""
    model, image = steps_of(num_classes), grey([0.5 / num_classes])
    label, eps = torch.tensor([0]), 0.4 / num_classes
    for num_targets, expected in ((None, min(num_classes - 1, MAX_TARGETS)), (3, 3), (30, 30)):
        expected = min(expected, num_classes - 1)
        for attack in (
            MultiTargetedPGD(num_steps=2, num_targets=num_targets),
            MultiTargetedAPGD(num_steps=2, num_targets=num_targets),
        ):
            with count_passes(model) as passes:
                attack(model, image, label, eps=eps)
            one = type(attack)(num_steps=2, num_targets=1)
            with count_passes(model) as of_one:
                one(model, image, label, eps=eps)
            assert passes.forward - 1 == expected * (of_one.forward - 1)
            assert passes.backward == expected * of_one.backward


def test_the_nearest_target_is_among_them() -> None:
    """The only class within eps is found, by the attack and by the search for the smallest eps."""
    model, image, label = steps_of(300), grey([0.5]), torch.tensor([149])
    eps = 1.2 / 300
    adv_image = MultiTargetedPGD(num_steps=10)(model, image, label, eps=eps)
    assert model.predict(adv_image).item() != 149
    _, size = FMN(num_steps=30).smallest(model, image, label, norm="linf")
    assert size.item() == pytest.approx(0, abs=1e-4), "on the border of two classes"


def test_dataset_attack_takes_the_nearest_classes_and_is_exact_at_the_largest_eps() -> None:
    model = steps_of(300)
    images = grey([(k + 0.5) / 300 for k in range(300)])
    labels = torch.arange(300)
    attack = DatasetAttack(LabelledImages(images, labels))
    with count_passes(model) as passes:
        adv_images = attack(model, images[:3], labels[:3], eps=1.0)
    assert (model.predict(adv_images) != labels[:3]).all()
    assert passes.forward <= 3 + 300 + 3 * MAX_TARGETS
    chosen, usable = nearest_of_each(
        torch.cdist(images[:1].flatten(1), images.flatten(1)),
        labels,
        labels[:1],
        find_objective("fool"),
        1,
    )
    assert chosen.tolist() == [list(range(1, MAX_TARGETS + 1))]
    assert usable.all()


@pytest.mark.slow
def test_the_worst_case_costs_no_more_with_more_classes() -> None:
    costs = []
    for num_classes in (30, 1000):
        model, image = steps_of(num_classes), grey([0.5 / num_classes])
        generator = torch.Generator().manual_seed(0)
        attack = worst_case()
        with count_passes(model) as passes:
            attack(model, image, torch.tensor([0]), eps=0.1 / num_classes, generator=generator)
        costs.append((passes.forward, passes.backward))
    assert costs[0] == costs[1]
