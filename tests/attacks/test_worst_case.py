"""The ensemble: fixed, versioned, a union image by image, and honest about what it cost."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from torch import Tensor
from worlds import Digits, linear_world, outcome_of, two_input_world

from nullclass.attacks import (
    ATTACKS,
    FGSM,
    PGD,
    AttackEnsemble,
    MultiTargetedPGD,
    Noise,
    Square,
    describe,
    worst_case,
)
from nullclass.attacks.counters import count_passes
from nullclass.attacks.ensemble import VERSION, run_attack
from nullclass.attacks.losses import find_objective, is_success
from nullclass.attacks.on_zero_gradient import OnZeroGradient
from nullclass.core.errors import UserError
from nullclass.models import Classifier

SETTINGS_OF_VERSION = {"1": "38b75c7a5a4fb327"}
"""A digest of the members and settings of each version that was ever published."""


def test_a_change_of_the_ensemble_is_a_new_version() -> None:
    told = json.dumps(
        [describe(worst_case(goal)) for goal in ("fool", "force-null")], sort_keys=True
    )
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == SETTINGS_OF_VERSION[VERSION]
    assert worst_case().version == f"worst-case {VERSION}"


def test_both_are_in_the_catalogue_with_one_goal_each() -> None:
    assert ATTACKS["worst-case"]() == worst_case("fool")
    assert ATTACKS["worst-case-force-null"]() == worst_case("force-null")
    for goal in ("fool", "force-null", "untargeted"):
        ensemble = worst_case(goal)  # type: ignore[arg-type]
        assert {member.objective for member in ensemble.members} == {goal}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("b", [0.02, 0.3])
def test_two_inputs_both_sides(b: float, norm: str) -> None:
    model, image, label = two_input_world(a=b, b=b)
    generator = torch.Generator().manual_seed(0)
    for share, may_fool in ((0.95, False), (1.05, True)):
        trace = worst_case().run_members(
            model, image, label, eps=share * b, norm=norm, generator=generator
        )
        assert (outcome_of(model, trace.adv_images, label) == ["fooled"]) is may_fool
        assert (trace.winning_member >= 0).tolist() == [may_fool]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_models_fall_at_the_optimum(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for seed, share, falls in ((0, 1.05, True), (1, 1.05, True), (2, 0.99, False)):
        world = linear_world(seed, scale=100)
        adv_images = worst_case()(
            world.model,
            world.image,
            world.label,
            eps=share * world.optimum[norm],
            norm=norm,
            generator=generator,
        )
        assert (outcome_of(world.model, adv_images, world.label) == ["fooled"]) is falls, seed


def test_what_needs_denying_has_its_own_optimum() -> None:
    model, image, label = two_input_world(a=0.3, b=0.05)
    generator = torch.Generator().manual_seed(0)
    for share, falls in ((0.95, False), (1.05, True)):  # null along x1 after a / 3
        adv_images = worst_case("force-null")(
            model, image, label, eps=share * 0.1, generator=generator
        )
        assert (outcome_of(model, adv_images, label) == ["null"]) is falls


FEW = AttackEnsemble(
    (PGD(num_steps=5), PGD(loss="margin", num_steps=5), MultiTargetedPGD(num_steps=10))
)


def fell(model: torch.nn.Module, adv_images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return is_success(model(adv_images), labels, 10, find_objective("fool"))


def test_a_trace_is_the_union_and_tells_who_felled_whom(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:150], digits.labels[:150]
    trace = FEW.run_members(model, images, labels, eps=0.08)
    assert torch.equal(trace.adv_images, FEW(model, images, labels, eps=0.08))
    alone = [fell(model, m(model, images, labels, eps=0.08), labels) for m in FEW.members]
    assert torch.equal(trace.winning_member >= 0, torch.stack(alone).any(dim=0))
    assert torch.equal(trace.winning_member >= 0, fell(model, trace.adv_images, labels))
    standing = torch.ones(150, dtype=torch.bool)
    for number, (tally, falls) in enumerate(zip(trace.member_stats, alone, strict=True)):
        assert tally.num_images == int(standing.sum())
        assert torch.equal(trace.winning_member == number, standing & falls), (
            "the first it falls to"
        )
        assert tally.num_successes == int((standing & falls).sum())
        standing &= ~falls
    assert 0 < standing.sum() < 150
    assert [tally.member for tally in trace.member_stats] == [
        "1 PGD",
        "2 PGD",
        "3 MultiTargetedPGD",
    ]


def test_what_stands_is_the_nearest_try(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:60], digits.labels[:60]
    trace = FEW.run_members(model, images, labels, eps=0.03)
    margin = find_objective("fool").loss

    def near(adv_images: Tensor) -> Tensor:
        with torch.no_grad():
            return margin(model(adv_images), labels, 10, "margin")

    tries = torch.stack([near(m(model, images, labels, eps=0.03)) for m in FEW.members])
    stands = trace.winning_member < 0
    torch.testing.assert_close(near(trace.adv_images)[stands], tries.amax(dim=0)[stands])


def test_passes_are_those_that_the_model_sees(digits: Digits) -> None:
    model, images, labels = digits.plain, digits.images[:7], digits.labels[:7]
    seen: list[int] = []
    hook = model.body.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    try:
        trace = FEW.run_members(model, images, labels, eps=1e-4)
    finally:
        hook.remove()
    assert sum(tally.num_forwards for tally in trace.member_stats) == sum(seen)
    # Nothing falls at so small an eps: every step of every climb is taken by every image.
    assert [tally.num_backwards for tally in trace.member_stats] == [7 * 5, 7 * 5, 7 * 9 * 10]
    assert all(tally.seconds > 0 for tally in trace.member_stats)
    with count_passes(model) as passes:
        FGSM().direction(model, images, labels, norm="linf")
    assert (passes.forward, passes.backward) == (7, 7)
    assert not model._forward_hooks, "nothing is left behind"


def test_a_single_attack_is_its_only_member(digits: Digits) -> None:
    model, images, labels = digits.plain, digits.images[:5], digits.labels[:5]
    trace = run_attack(PGD(num_steps=3), "mine", model, images, labels, eps=1e-4)
    (tally,) = trace.member_stats
    assert (tally.member, tally.num_images) == ("mine", 5)
    assert (tally.num_forwards, tally.num_backwards) == (5 * 4, 5 * 3)
    nothing = run_attack(PGD(), "mine", model, images[:0], labels[:0], eps=0.1)
    assert nothing.adv_images.shape == (0, 1, 8, 8)
    assert nothing.member_stats[0].num_forwards == 0


def test_in_l1_the_members_that_know_it_do_the_work(digits: Digits) -> None:
    images, labels = digits.images[:3], digits.labels[:3]
    trace = worst_case().run_members(
        digits.plain, images, labels, eps=20.0, norm="l1", generator=torch.Generator()
    )
    assert bool((trace.winning_member >= 0).all())
    model, image, label = two_input_world(a=0.1, b=0.1)
    told = AttackEnsemble((Square(num_queries=5), PGD(num_steps=5))).run_members(
        model, image, label, eps=0.05, norm="l1"
    )
    assert [tally.num_forwards > 0 for tally in told.member_stats] == [False, True]
    assert [stats.status for stats in told.member_stats] == ["unsupported-norm", "ran"]
    assert told.member_stats[0].num_images == 0


def test_where_flat_attacks_what_has_no_gradient_only(digits: Digits) -> None:
    class HalfFlat(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            is_flat = (images[:, :1, :1, :1] > 0.5).to(images)
            seen = is_flat * (images * 4).round() / 4 + (1 - is_flat) * images
            return digits.plain(seen.detach() * is_flat + seen * (1 - is_flat))

    model = Classifier(HalfFlat(), 10, has_null=False)
    images, labels = digits.images[:20].clone(), digits.labels[:20]
    images[:, 0, 0, 0] = torch.arange(20) % 2 * 1.0
    generator = torch.Generator().manual_seed(0)
    adv_images = OnZeroGradient(Noise())(model, images, labels, eps=0.05, generator=generator)
    is_right = model.predict(images) == labels
    is_moved = (adv_images != images).flatten(1).any(dim=1)
    assert torch.equal(is_moved, is_right & (torch.arange(20) % 2 == 1))


def test_an_image_without_a_gradient_is_not_climbed_for_nothing(digits: Digits) -> None:
    class Flat(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return digits.guarded((images * 4).round() / 4)

    model = Classifier(Flat(), 10)
    with count_passes(model) as passes:
        PGD(num_steps=40)(model, digits.images[:9], digits.labels[:9], eps=0.1)
    assert passes.forward == 9, "one look tells that there is nowhere to go"


def test_members_must_agree() -> None:
    with pytest.raises(UserError, match="all with the same objective"):
        AttackEnsemble((PGD(), PGD(objective="force-null")))
    with pytest.raises(UserError, match="needs as many names"):
        AttackEnsemble((PGD(), PGD()), ("a", "a"))
