"""PGD: chosen targets, random starts, and successes that are left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from worlds import Digits, fooled, seeded

from nullclass.attacks import (
    APGD,
    FMN,
    PGD,
    MultiTargetedPGD,
    SelectivePGD,
    null_aware_pgd,
)
from nullclass.attacks.losses import LossName
from nullclass.core.errors import UserError
from nullclass.core.norms import is_allowed
from nullclass.models import Classifier


def test_chosen_targets_are_reached_and_nothing_else(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:60], digits.labels[:60]
    right = model.predict(images) == labels
    targets = (labels + 1 + torch.arange(60) % 9) % 10
    adv_images = PGD(targets=targets, num_steps=60)(model, images, labels, eps=0.35)
    assert (model.predict(adv_images) == targets).double().mean() > 0.9
    null = PGD(targets=-1)(model, images, labels, eps=0.2)
    assert (model.predict(null) == -1)[right].all()
    # An image of another wrong class is no success, so the attack goes on.
    adv_images = PGD(targets=3, num_steps=60)(model, images, labels, eps=0.35)
    assert (model.predict(adv_images[labels != 3]) == 3).double().mean() > 0.9
    assert torch.equal(adv_images[labels == 3], images[labels == 3])
    for wrong, says in (
        (torch.zeros(7, dtype=torch.int64), "60 images, but targets of"),
        (10, "targets must be from 0 to 9, or -1 for null"),
        (labels, "must differ from the image's true label"),
        (targets.float(), "targets must be integers, not torch.float32"),
        (1.0, "targets must be integers"),
        (True, "targets must be integers, not torch.bool"),
    ):
        with pytest.raises(UserError, match=says):
            PGD(targets=wrong)(model, images, labels, eps=0.1)
    with pytest.raises(UserError, match=r"targets must be from 0 to 9$"):
        PGD(targets=-1)(digits.plain, images, labels, eps=0.1)
    few = PGD(targets=targets.int(), num_steps=2)(model, images, labels, eps=0.1)
    assert torch.equal(few, PGD(targets=targets, num_steps=2)(model, images, labels, eps=0.1))


def test_all_other_answers_defend_against_a_chosen_target() -> None:
    def loss(target: int, name: LossName) -> float:
        model = Classifier(nn.Flatten(), 4)
        images = torch.tensor([0.2, 0.5, 0.9, 0.1, 0.7]).view(1, 1, 1, 5)  # also the logits
        attack = PGD(targets=target)
        state = attack.begin(model, images, torch.tensor([0]), eps=0.1)
        return float(state.loss(name)(images.flatten(1), torch.tensor([0])))

    assert loss(1, "margin") == pytest.approx(0.5 - 0.9)
    assert loss(-1, "margin") == pytest.approx(0.7 - 0.9)
    assert loss(2, "margin") == pytest.approx(0.9 - 0.7)
    assert loss(2, "dlr") == pytest.approx((0.9 - 0.7) / (0.7 - 0.2))
    assert loss(2, "logsumexp-margin") == pytest.approx(
        0.9 - math.log(sum(math.exp(z) for z in (0.2, 0.5, 0.1, 0.7)))
    )


def test_successful_images_are_left_alone(digits: Digits) -> None:
    model, images = digits.guarded, digits.images[:60]
    wrong = (digits.labels[:60] + 1) % 10  # nearly every clean image is fooled
    is_fooled = fooled(model, images, wrong)
    assert is_fooled.sum() > 50
    for attack in (PGD(), MultiTargetedPGD(), APGD(), FMN(), SelectivePGD(), null_aware_pgd()):
        adv_images = attack(model, images, wrong, eps=0.1)
        assert torch.equal(adv_images[is_fooled], images[is_fooled])


def test_random_starts_stay_in_the_ball() -> None:
    images = torch.rand(300, 1, 4, 4, generator=seeded())
    labels = torch.zeros(300, dtype=torch.int64)

    class Flat(nn.Module):  # never fooled and without a gradient: the starts are returned
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0, 0.0]).repeat(len(x), 1) + 0 * x.flatten(1).sum(1, True)

    for norm, eps in (("linf", 0.2), ("l2", 0.5), ("l1", 1.5)):
        attack = PGD(num_restarts=2, num_steps=1)
        model = Classifier(Flat(), 2)
        adv_images = attack(model, images, labels, eps=eps, norm=norm, generator=seeded(5))
        assert is_allowed(adv_images, images, eps, norm).all()


def test_skipped_targets_are_the_nearest() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))
        images = torch.rand(3, 1, 4, 4)
    model = Classifier(body, 5, image_shape=(1, 4, 4))
    labels = model.predict(images).clamp(min=0)

    def losses(**settings: int) -> list[list[float]]:
        attack = MultiTargetedPGD(**settings)  # type: ignore[arg-type]
        state = attack.begin(model, images, labels, eps=0.1)
        logits, indices = torch.randn(3, 6, generator=seeded()), torch.arange(3)
        return [loss(logits, indices).tolist() for loss in attack.losses(state)]

    every = losses()
    assert len(every) == 4
    assert losses(num_skipped=1) == every[1:]
    assert losses(num_skipped=1, num_targets=2) == every[1:3]
    assert losses(num_skipped=4, num_targets=2) == []
    with pytest.raises(UserError, match="num_skipped"):
        MultiTargetedPGD(num_skipped=-1)
