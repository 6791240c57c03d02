"""Selective and orthogonal PGD: two losses whose signs are the outcome, steps that take turns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from worlds import Digits, fooled, two_input_world

from nullclass.attacks import PGD, SelectivePGD
from nullclass.attacks.counters import count_passes
from nullclass.attacks.selective import two_losses
from nullclass.core.norms import is_allowed
from nullclass.models import Classifier

K = 4
LOGITS = st.lists(
    st.floats(-9, 9, width=32).map(lambda z: round(z, 3)), min_size=K, max_size=K + 1, unique=True
)
EPS = {"linf": 0.1, "l2": 0.6, "l1": 2.0}


@settings(deadline=None, max_examples=200)
@given(z=LOGITS, y=st.integers(0, K - 1))
def test_an_image_is_fooled_where_both_losses_are_positive(z: list[float], y: int) -> None:
    classifier, detector = two_losses(torch.tensor([z]), torch.tensor([y]), K)
    best = max(v for k, v in enumerate(z[:K]) if k != y)
    assert float(classifier) == pytest.approx(best - z[y], abs=1e-5)
    assert float(detector) == pytest.approx(best - (z[K] if len(z) > K else z[y]), abs=1e-5)
    answer = z.index(max(z))
    assert bool((classifier > 0) & (detector > 0)) is (answer not in (y, K))


def is_fooled_around(
    optimum: float, attack: SelectivePGD, world: tuple[Classifier, Tensor, Tensor], norm: str
) -> list[bool]:
    """Whether the image is fooled just below and just above the optimum."""
    model, image, label = world
    images, labels = image.repeat(2, 1, 1, 1), label.repeat(2)
    eps = optimum * torch.tensor([0.95, 1.05])
    return fooled(model, attack(model, images, labels, eps=eps, norm=norm), labels).tolist()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_selective_steps_are_exact_on_two_inputs(norm: str) -> None:
    for b in (0.01, 0.3):
        for a in (0.2 * b, 2.9 * b):
            world = two_input_world(a, b)
            assert is_fooled_around(b, SelectivePGD(), world, norm) == [False, True], (a, b)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_orthogonal_steps_on_two_inputs(norm: str) -> None:
    # The losses' gradients are (0, 1) and (-3, 1). What of the first is orthogonal to the second is
    # (0.3, 0.9): in L2 a budget of b reaches only 0.9487 b along x2, so b / 0.9487 is needed.
    for b in (0.01, 0.1, 0.3):
        needed = b / 0.9 * 0.9**0.5 if norm == "l2" else b
        assert needed == pytest.approx(b / (0.9 / (0.3**2 + 0.9**2) ** 0.5) if norm == "l2" else b)
        attack, world = SelectivePGD(variant="orthogonal"), two_input_world(a=b, b=b)
        assert is_fooled_around(needed, attack, world, norm) == [False, True], b


def test_orthogonal_steps_leave_the_other_loss_alone() -> None:
    # One L2 step in a linear world: the classifier's loss rises, the detector's stays.
    model, image, label = two_input_world(a=0.1, b=0.1)
    attack = SelectivePGD(variant="orthogonal", num_steps=1, relative_step=1.0)
    adv_images = attack(model, image, label, eps=0.05, norm="l2")
    with torch.no_grad():
        before, after = (two_losses(model(x), label, 2) for x in (image, adv_images))
    assert float(after[0]) > float(before[0]) + 0.04
    torch.testing.assert_close(after[1], before[1], atol=1e-6, rtol=0)
    selective = SelectivePGD(num_steps=1, relative_step=1.0)
    adv_images = selective(model, image, label, eps=0.05, norm="l2")
    with torch.no_grad():
        moved = two_losses(model(adv_images), label, 2)
    assert float(moved[0]) > float(after[0]), "the plain gradient climbs faster"


@pytest.mark.parametrize("variant", ["selective", "orthogonal"])
@pytest.mark.parametrize("norm", EPS)
def test_without_null_it_is_plain_pgd(digits: Digits, norm: str, variant: str) -> None:
    model, images, labels = digits.plain, digits.images[:60], digits.labels[:60]
    ours = SelectivePGD(variant=variant)(model, images, labels, eps=EPS[norm], norm=norm)  # type: ignore[arg-type]
    plain = PGD(loss="margin")(model, images, labels, eps=EPS[norm], norm=norm)
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", EPS)
def test_taking_turns_finds_what_cross_entropy_does_not(digits: Digits, norm: str) -> None:
    model, images, labels = digits.guarded, digits.images[:100], digits.labels[:100]
    untargeted = PGD(objective="untargeted")(model, images, labels, eps=EPS[norm], norm=norm)
    counts = {}
    for variant in ("selective", "orthogonal"):
        attack = SelectivePGD(variant=variant)  # type: ignore[arg-type]
        adv_images = attack(model, images, labels, eps=EPS[norm], norm=norm)
        assert is_allowed(adv_images, images, EPS[norm], norm).all()
        counts[variant] = int(fooled(model, adv_images, labels).sum())
        assert counts[variant] > int(fooled(model, untargeted, labels).sum()), variant
    # On a linear piece, alternating between the two margins is following the objective's margin.
    margin = PGD(loss="margin")(model, images, labels, eps=EPS[norm], norm=norm)
    assert abs(counts["selective"] - int(fooled(model, margin, labels).sum())) <= 3


def test_restarts_only_add_and_turns_cost_what_they_say(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:60], digits.labels[:60]

    def found(num_restarts: int) -> Tensor:
        attack = SelectivePGD(num_steps=10, num_restarts=num_restarts)
        generator = torch.Generator().manual_seed(0)
        return fooled(model, attack(model, images, labels, eps=0.08, generator=generator), labels)

    assert (found(3) | ~found(1)).all()
    costs = {}
    for variant in ("selective", "orthogonal"):
        with count_passes(model) as passes:
            SelectivePGD(variant=variant, num_steps=10)(model, images, labels, eps=1e-6)  # type: ignore[arg-type]
        costs[variant] = (passes.forward, passes.backward)
    num_active = int((~fooled(model, images, labels)).sum())
    # Eleven passes, the last without a gradient; orthogonal takes a second gradient a step.
    assert costs["selective"] == (60 + 10 * num_active, 60 + 9 * num_active)
    assert costs["orthogonal"] == (60 + 20 * num_active, 60 + 19 * num_active)
