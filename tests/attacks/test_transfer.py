"""Transfer: what other models' attacks do to this one."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from disturbed import left_as_found, relatives, small_batch, small_model
from torch import Tensor, nn
from worlds import Affine, Digits, outcome_of, two_input_world

from nullclass.attacks import FGSM, PGD, Attack, MultiTargetedPGD, Noise, Square, Transfer, describe
from nullclass.attacks.counters import count_passes
from nullclass.attacks.losses import find_objective
from nullclass.core.errors import UserError
from nullclass.models import Classifier, build_model

ALL_NORMS = ["linf", "l2", "l1"]


def test_sources_are_left_as_found() -> None:
    first, second = relatives()
    batch = small_batch()
    with left_as_found(first, *batch), left_as_found(second, *batch):
        Transfer((first, second), PGD(num_steps=3))(small_model(), *batch, eps=0.01)


@pytest.mark.parametrize(
    "attack", [PGD(num_steps=10), FGSM(objective="fool"), MultiTargetedPGD(num_steps=5)]
)
def test_from_the_model_s_twin_it_is_the_attack_itself(digits: Digits, attack: Attack) -> None:
    model, images, labels = digits.guarded, digits.images[:100], digits.labels[:100]
    twin = copy.deepcopy(model)
    itself = outcome_of(model, attack(model, images, labels, eps=0.08), labels)
    transferred = Transfer((twin,), attack)(model, images, labels, eps=0.08)
    # FGSM may leave behind an image that was fooled as it was; a search never does.
    for ours, theirs in zip(outcome_of(model, transferred, labels), itself, strict=True):
        assert (ours == "fooled") >= (theirs == "fooled")
        if attack.is_iterative:
            assert (ours == "fooled") == (theirs == "fooled")
    assert "fooled" in itself


def test_two_inputs() -> None:
    # A source with the same two inputs transfers as far as its own b lets it believe.
    model, image, label = two_input_world(a=0.1, b=0.1)
    twin, _, _ = two_input_world(a=0.1, b=0.1)
    harder, _, _ = two_input_world(a=0.1, b=0.15)
    attack = PGD(loss="margin")
    for source in (twin, harder):
        for share, may_fool in ((0.95, False), (1.05, True)):
            adv_images = Transfer((source,), attack)(model, image, label, eps=share * 0.1)
            assert (outcome_of(model, adv_images, label) == ["fooled"]) is may_fool
    # One that sees the first input only has nothing to teach.
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    first_only = Classifier(Affine(weight, torch.zeros(2)), 2, has_null=False)
    adv_images = Transfer((first_only,), PGD())(model, image, label, eps=0.2)
    assert outcome_of(model, adv_images, label) != ["fooled"]


def test_the_first_source_that_succeeds_is_kept_and_the_others_are_not_attacked() -> None:
    model, image, label = two_input_world(a=0.1, b=0.1)
    useless, _, _ = two_input_world(a=0.1, b=0.1)
    useless.body.weight.data.neg_()  # believes in the opposite direction
    good, unused = two_input_world(a=0.1, b=0.1)[0], two_input_world(a=0.1, b=0.1)[0]
    attack = PGD(loss="margin")
    with (
        count_passes(good) as of_good,
        count_passes(unused) as of_unused,
        count_passes(model) as of_model,
    ):
        adv_images = Transfer((useless, good, unused), attack)(model, image, label, eps=0.11)
    assert outcome_of(model, adv_images, label) == ["fooled"]
    assert of_good.backward > 0
    assert of_unused.forward == 0
    assert (of_model.forward, of_model.backward) == (3, 0), "clean, useless, good"
    torch.testing.assert_close(adv_images, attack(good, image, label, eps=0.11))


def test_the_best_try_on_the_target_is_kept(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:80], digits.labels[:80]
    attack, goal, eps = PGD(num_steps=5), find_objective("fool"), 0.03
    others = tuple(stranger(seed) for seed in range(3))
    adv_images = Transfer(others, attack)(model, images, labels, eps=eps)
    tries = [images] + [attack(other, images, labels, eps=eps) for other in others]

    def margins(tried: Tensor) -> Tensor:
        with torch.no_grad():
            return goal.loss(model(tried), labels, 10, "margin")

    best = torch.stack([margins(tried) for tried in tries]).amax(dim=0)
    is_active = best < 0
    assert is_active.sum() > 40
    torch.testing.assert_close(margins(adv_images)[is_active], best[is_active], atol=1e-5, rtol=0)
    is_fooled = torch.tensor([t == "fooled" for t in outcome_of(model, adv_images, labels)])
    assert torch.equal(is_fooled, best > 0)


def stranger(seed: int, num_classes: int = 10, has_null: bool = True) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes + has_null))
    return Classifier(body, num_classes, has_null=has_null)


def test_a_source_without_null_does(digits: Digits) -> None:
    images, labels = digits.images[:200], digits.labels[:200]
    adv_images = Transfer((digits.plain,), PGD())(digits.guarded, images, labels, eps=0.2)
    clean, found = (
        outcome_of(digits.guarded, x, labels).count("fooled") for x in (images, adv_images)
    )
    assert found > clean + 10
    with pytest.raises(UserError, match="force-null needs a model with a null class"):
        Transfer((digits.plain,), PGD(objective="force-null"))(
            digits.guarded, images, labels, eps=0.15
        )
    with pytest.raises(UserError, match="force-null needs a model with a null class"):
        Transfer((digits.guarded,), PGD(objective="force-null"))(
            digits.plain, images, labels, eps=0.15
        )


def test_budgets_of_each_image_reach_the_attack(digits: Digits) -> None:
    model, images, labels = digits.plain, digits.images[:200], digits.labels[:200]
    budgets = torch.where(torch.arange(200) % 2 == 0, 0.0, 0.3)
    adv_images = Transfer((digits.guarded,), Square(num_queries=30))(
        model, images, labels, eps=budgets, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(adv_images[::2], images[::2])
    clean, found = (outcome_of(model, x[1::2], labels[1::2]) for x in (images, adv_images))
    assert found.count("fooled") > clean.count("fooled") + 10


def test_it_is_described_by_names() -> None:
    named = build_model("notebook", image_shape=(1, 28, 28), num_classes=10)
    attack = Transfer((named, stranger(0)), Noise("untargeted", num_draws=3))
    settings = describe(attack)
    assert settings["sources"] == ["notebook", "Sequential"]
    assert settings["objective"] == attack.objective == "untargeted"
    assert settings["attack"] == {"kind": "Noise", "objective": "untargeted", "num_draws": 3}
    assert json.loads(json.dumps(settings)) == settings
    assert len(repr(attack)) < 200


def test_sources_that_do_not_fit_are_refused(digits: Digits) -> None:
    for wrong in ((), (nn.Linear(2, 2),), (digits.plain, None)):
        with pytest.raises(UserError, match="Transfer needs a tuple with at least one"):
            Transfer(wrong, PGD())  # type: ignore[arg-type]
    attack = Transfer((digits.plain, stranger(0, num_classes=7)), PGD())
    with pytest.raises(UserError, match="a source has 7 classes, but the model under attack 10"):
        attack(digits.guarded, digits.images[:3], digits.labels[:3], eps=0.1)
