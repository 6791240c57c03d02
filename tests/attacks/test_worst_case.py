"""The worst case: fixed, versioned, a union image by image, with the cost of every member."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from worlds import Digits, fooled, linear_batch, outcome_of, seeded, two_input_world

from nullclass.attacks import (
    FGSM,
    PGD,
    AttackEnsemble,
    MultiTargetedPGD,
    Noise,
    Square,
    describe,
    worst_case,
    worst_case_1,
)
from nullclass.attacks.conditional import OnSample, OnZeroGradient
from nullclass.attacks.counters import count_passes
from nullclass.attacks.ensemble import EnsembleResult, run_attack
from nullclass.attacks.losses import ObjectiveName, find_objective
from nullclass.attacks.state import AttackState
from nullclass.core.errors import UserError
from nullclass.models import Classifier

SETTINGS_OF_VERSION = {"1": "fd38e1753dd54ac3", "2": "247ae9536df9b82d"}
"""A digest of the members and settings of each published version."""


@pytest.mark.parametrize("make", [worst_case_1, worst_case])
def test_a_change_of_the_ensemble_is_a_new_version(
    make: Callable[[ObjectiveName], AttackEnsemble],
) -> None:
    settings = json.dumps([describe(make(goal)) for goal in ("fool", "force-null")], sort_keys=True)
    name, version = make("fool").version.split()
    assert name == "worst-case"
    assert hashlib.sha256(settings.encode()).hexdigest()[:16] == SETTINGS_OF_VERSION[version]
    for goal in ("fool", "force-null", "untargeted"):
        ensemble = make(goal)  # type: ignore[arg-type]
        assert {member.objective for member in ensemble.members} == {goal}


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_it_is_exact_on_linear_models(norm: str) -> None:
    """Half of the images just below their optimum, half just above, in one run."""
    world = linear_batch(0)
    is_above = torch.arange(30) % 2 == 1
    eps = torch.where(is_above, 1.05, 0.99) * world.optima[norm]
    result = worst_case().run_members(
        world.model, world.images, world.labels, eps=eps, norm=norm, generator=seeded()
    )
    assert torch.equal(fooled(world.model, result.adv_images, world.labels), is_above)
    assert torch.equal(result.winning_member >= 0, is_above)


@pytest.mark.parametrize(
    ("objective", "a", "b"),
    [pytest.param("fool", 0.1, 0.1, marks=pytest.mark.slow), ("force-null", 0.3, 0.05)],
)
def test_two_inputs_both_sides(objective: ObjectiveName, a: float, b: float) -> None:
    # The other class lies along x2 after b, null along x1 after a / 3: in both worlds after 0.1.
    model, image, label = two_input_world(a, b)
    images, labels, eps = image.repeat(2, 1, 1, 1), label.repeat(2), torch.tensor([0.095, 0.105])
    adv_images = worst_case(objective)(model, images, labels, eps=eps, generator=seeded())
    succeeded = {"fool": "fooled", "force-null": "null"}[objective]
    scored = outcome_of(model, adv_images, labels)
    assert [outcome == succeeded for outcome in scored] == [False, True]


FEW = AttackEnsemble(
    (PGD(num_steps=5), PGD(loss="margin", num_steps=5), MultiTargetedPGD(num_steps=10))
)


@pytest.fixture(scope="module")
def few(digits: Digits) -> tuple[Tensor, Tensor, EnsembleResult, list[Tensor]]:
    """Images, labels, the result of a small ensemble, and what each member finds alone."""
    images, labels = digits.images[:150], digits.labels[:150]
    result = FEW.run_members(digits.guarded, images, labels, eps=0.08)
    return (
        images,
        labels,
        result,
        [m(digits.guarded, images, labels, eps=0.08) for m in FEW.members],
    )


def test_the_result_is_the_union_and_names_the_first_winner(
    digits: Digits, few: tuple[Tensor, Tensor, EnsembleResult, list[Tensor]]
) -> None:
    images, labels, result, alone = few
    model, active = digits.guarded, torch.ones(150, dtype=torch.bool)
    assert torch.equal(result.adv_images, FEW(model, images, labels, eps=0.08))
    for number, (stats, adv_images) in enumerate(zip(result.member_stats, alone, strict=True)):
        succeeds = fooled(model, adv_images, labels)
        assert stats.num_images == int(active.sum())
        assert torch.equal(result.winning_member == number, active & succeeds)
        assert stats.num_successes == int((active & succeeds).sum())
        active &= ~succeeds
    assert 0 < active.sum() < 150
    assert torch.equal(result.winning_member < 0, active)
    assert torch.equal(fooled(model, result.adv_images, labels), ~active)
    names = ["1 PGD", "2 PGD", "3 MultiTargetedPGD"]
    assert [stats.member for stats in result.member_stats] == names

    def margins(adv_images: Tensor) -> Tensor:
        with torch.no_grad():
            return find_objective("fool").loss(model(adv_images), labels, 10, "margin")

    best = torch.stack([margins(adv_images) for adv_images in alone]).amax(dim=0)
    torch.testing.assert_close(margins(result.adv_images)[active], best[active])


def test_passes_are_those_that_the_model_sees(digits: Digits) -> None:
    model, images, labels = digits.plain, digits.images[:7], digits.labels[:7]
    sizes: list[int] = []
    hook = model.body.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    try:
        stats = FEW.run_members(model, images, labels, eps=1e-4).member_stats
    finally:
        hook.remove()
    assert sum(member.num_forwards for member in stats) == sum(sizes)
    # No image succeeds at so small an eps, so all take every step.
    assert [member.num_backwards for member in stats] == [7 * 5, 7 * 5, 7 * 9 * 10]
    assert all(member.seconds > 0 for member in stats)
    with count_passes(model) as passes:
        FGSM().direction(model, images, labels, norm="linf")
    assert (passes.forward, passes.backward) == (7, 7)
    assert not model._forward_hooks
    # A single attack is an ensemble of one.
    (single,) = run_attack(PGD(num_steps=3), "mine", model, images, labels, eps=1e-4).member_stats
    assert (single.member, single.num_images, single.status) == ("mine", 7, "ran")
    assert (single.num_forwards, single.num_backwards) == (7 * 4, 7 * 3)
    nothing = run_attack(PGD(), "mine", model, images[:0], labels[:0], eps=0.1)
    assert nothing.adv_images.shape == (0, 1, 8, 8)
    assert nothing.member_stats[0].num_forwards == 0


def test_members_without_the_norm_are_skipped(digits: Digits) -> None:
    images, labels = digits.images[:3], digits.labels[:3]
    result = worst_case().run_members(
        digits.plain, images, labels, eps=20.0, norm="l1", generator=seeded()
    )
    assert bool((result.winning_member >= 0).all())
    model, image, label = two_input_world(a=0.1, b=0.1)
    stats = AttackEnsemble((Square(num_queries=5), PGD(num_steps=5))).run_members(
        model, image, label, eps=0.05, norm="l1"
    ).member_stats  # fmt: skip
    assert [member.status for member in stats] == ["unsupported-norm", "ran"]
    assert [member.num_images for member in stats] == [0, 1]
    assert [member.num_forwards > 0 for member in stats] == [False, True]


def test_on_zero_gradient_attacks_images_without_a_gradient_only(digits: Digits) -> None:
    class HalfFlat(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            is_flat = (images[:, :1, :1, :1] > 0.5).to(images)
            seen = is_flat * (images * 4).round() / 4 + (1 - is_flat) * images
            return digits.plain(seen.detach() * is_flat + seen * (1 - is_flat))

    model = Classifier(HalfFlat(), 10, has_null=False)
    images, labels = digits.images[:20].clone(), digits.labels[:20]
    images[:, 0, 0, 0] = torch.arange(20) % 2 * 1.0
    adv_images = OnZeroGradient(Noise())(model, images, labels, eps=0.05, generator=seeded())
    is_right = model.predict(images) == labels
    is_moved = (adv_images != images).flatten(1).any(dim=1)
    assert torch.equal(is_moved, is_right & (torch.arange(20) % 2 == 1))
    flat = images[1::2]
    with count_passes(model) as passes:
        PGD(num_steps=40)(model, flat, labels[1::2], eps=0.1)
    assert passes.forward == len(flat), "one pass, as there is no direction to follow"


class Counting(Noise):
    """Succeeds on no image; keeps the labels of the images that it got, call by call."""

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        CALLS.append(state.labels.tolist())


CALLS: list[list[int]] = []


def test_on_sample_goes_on_only_after_a_success(digits: Digits) -> None:
    images, labels = digits.images[:150], digits.labels[:150]
    model = digits.guarded
    CALLS.clear()
    OnSample(Counting(), share=0.02, smallest=1)(model, images, labels, eps=0.01)
    with torch.no_grad():
        margins = find_objective("fool").loss(model(images), labels, 10, "margin")
    ranked = margins.argsort(descending=True, stable=True)
    ranked = ranked[int((margins > 0).sum()) :]  # the others succeed without an attack
    assert [labels[ranked[:3]].tolist()] == CALLS
    # The share is of the images that the ensemble began with, not of those that are left.
    CALLS.clear()
    few = AttackEnsemble((PGD(num_steps=20), OnSample(Counting(), share=0.02, smallest=1)))
    few(model, images, labels, eps=0.08)
    assert [len(call) for call in CALLS] == [3]
    # A sample of few images would say little.
    CALLS.clear()
    OnSample(Counting(), share=0.02, smallest=5)(model, images, labels, eps=0.01)
    assert [len(call) for call in CALLS] == [5]
    # An attack that succeeds everywhere gets all images.
    adv_images = OnSample(PGD(num_steps=20), share=0.03)(model, images, labels, eps=0.5)
    assert torch.equal(adv_images, PGD(num_steps=20)(model, images, labels, eps=0.5))
    assert fooled(model, adv_images, labels).double().mean() > 0.9


def test_members_must_agree() -> None:
    with pytest.raises(UserError, match="all with the same objective"):
        AttackEnsemble((PGD(), PGD(objective="force-null")))
    with pytest.raises(UserError, match="at least one attack"):
        AttackEnsemble(())
    with pytest.raises(UserError, match="needs as many different names"):
        AttackEnsemble((PGD(), PGD()), ("a", "a"))
