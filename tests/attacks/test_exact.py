"""Worlds in which it is known exactly when an image can be fooled."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from nullclass.attacks import ATTACKS, FGSM, PGD, Attack, TargetedPGD, null_aware_pgd
from nullclass.models import Classifier
from worlds import linear_world, outcome_of, two_input_world

SEARCHES = [name for name, make in ATTACKS.items() if make().is_search]

NULL_AWARE: dict[str, Attack] = {
    "smooth": PGD(form="smooth"),
    "hard": PGD(form="hard"),
    "hard, restarts": PGD(form="hard", num_restarts=2),
    "targeted": TargetedPGD(),
    "null-aware-pgd": null_aware_pgd(),
    "null-aware-pgd, bfloat16": null_aware_pgd(precision="bfloat16"),
}


def cross_entropy_pgd(
    model: Classifier, images: Tensor, labels: Tensor, eps: float, num_steps: int = 40
) -> Tensor:
    """What every attack library does: climb cross-entropy, blind to what null means."""
    attacked = images.clone()
    for _ in range(num_steps):
        attacked.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(attacked), labels), attacked)
        attacked = attacked.detach() + 2.5 / num_steps * eps * gradient.sign()
        attacked = attacked.clamp(images - eps, images + eps).clamp(0, 1)
    return attacked


@pytest.mark.parametrize("name", NULL_AWARE)
@pytest.mark.parametrize("b", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("ratio", [0.2, 1.0, 2.9])
def test_two_inputs_linf(name: str, b: float, ratio: float) -> None:
    model, image, label = two_input_world(a=ratio * b, b=b)
    attack = NULL_AWARE[name]
    generator = torch.Generator().manual_seed(0)
    below = attack(model, image, label, eps=0.95 * b, generator=generator)
    above = attack(model, image, label, eps=1.05 * b, generator=generator)
    assert outcome_of(model, below, label) != ["fooled"]
    assert outcome_of(model, above, label) == ["fooled"]


@pytest.mark.parametrize("b", [0.01, 0.1, 0.3])
def test_cross_entropy_walks_into_null_at_every_budget(b: float) -> None:
    model, image, label = two_input_world(a=b, b=b)
    for eps in (1.05 * b, 1.5 * b, 2 * b, 0.5, 1.0):
        for attacked in (
            cross_entropy_pgd(model, image, label, eps),
            FGSM()(model, image, label, eps=eps),
        ):
            assert outcome_of(model, attacked, label) == ["null"]


@pytest.mark.parametrize("name", NULL_AWARE)
@pytest.mark.parametrize("b", [0.01, 0.1, 0.3])
def test_two_inputs_l2(name: str, b: float) -> None:
    # Along x2 alone the distance is b in L2 too. A smooth margin spends part of an L2 budget on
    # pushing null away, unless the logits are sharp; scaling them moves no boundary.
    model, image, label = two_input_world(a=b, b=b, scale=30 / b)
    attack = NULL_AWARE[name]
    generator = torch.Generator().manual_seed(0)
    for share, may_fool in ((0.95, False), (1.05, True)):
        attacked = attack(model, image, label, eps=share * b, norm="l2", generator=generator)
        assert (outcome_of(model, attacked, label) == ["fooled"]) is may_fool


@pytest.mark.parametrize(
    "name",
    [
        "hard",
        "null-aware-pgd",
    ],
)
def test_two_inputs_l2_with_flat_logits(name: str) -> None:
    model, image, label = two_input_world(a=0.1, b=0.1)
    attacked = NULL_AWARE[name](model, image, label, eps=0.105, norm="l2")
    assert outcome_of(model, attacked, label) == ["fooled"]


@settings(deadline=None, max_examples=30)
@given(
    a=st.floats(0.02, 0.5),
    b=st.floats(0.02, 0.4),
    eps=st.floats(0, 0.49),
    norm=st.sampled_from(["linf", "l2"]),
)
def test_nothing_is_fooled_within_b(a: float, b: float, eps: float, norm: str) -> None:
    model, image, label = two_input_world(a, b)
    for name in SEARCHES:
        attacked = ATTACKS[name]()(model, image, label, eps=min(eps, 0.999 * b), norm=norm)
        assert outcome_of(model, attacked, label) != ["fooled"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", SEARCHES)
def test_linear_models_fall_within_a_quarter_of_the_optimum(name: str, norm: str) -> None:
    attack = ATTACKS[name]()
    for seed in range(25):
        world = linear_world(seed, scale=100)
        optimum = world.optimum[norm]
        eps = 1.25 * optimum
        attacked = attack(world.model, world.image, world.label, eps=eps, norm=norm)
        assert outcome_of(world.model, attacked, world.label) == ["fooled"], (seed, optimum)
        delta = (attacked - world.image).double().flatten()
        size = delta.abs().max() if norm == "linf" else delta.norm()
        assert optimum * (1 - 1e-4) <= size <= eps + 1e-6, "in budget, and the optimum is one"
        below = attack(world.model, world.image, world.label, eps=0.99 * optimum, norm=norm)
        assert outcome_of(world.model, below, world.label) != ["fooled"], "nothing can"


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("objective", ["deny", "evade"])
def test_other_goals_have_their_own_optimum(objective: str, norm: str) -> None:
    # From the origin null is reached along x1 alone after a / 3, the other class along x2 after b:
    # deny needs the first, evade the nearer of the two.
    for a, b in ((0.3, 0.3), (0.3, 0.05)):
        model, image, label = two_input_world(a=a, b=b, scale=300)
        optimum = a / 3 if objective == "deny" else min(a / 3, b)
        attack = PGD(objective=objective, form="hard")  # type: ignore[arg-type]
        reached = ["null"] if objective == "deny" else ["null", "fooled"]
        for share, is_reached in ((0.95, False), (1.05, True)):
            attacked = attack(model, image, label, eps=share * optimum, norm=norm)
            told = outcome_of(model, attacked, label)[0]
            assert (told in reached) is is_reached, (a, b, share, told)
