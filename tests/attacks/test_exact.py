"""Worlds in which it is known exactly when an image can be fooled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from worlds import fooled, linear_batch, outcome_of, seeded, two_input_world

from nullclass.attacks import (
    APGD,
    ATTACKS,
    FGSM,
    PGD,
    Attack,
    MultiTargetedAPGD,
    MultiTargetedPGD,
    SelectivePGD,
    Square,
    WholeBallPGD,
    null_aware_pgd,
)
from nullclass.models import Classifier

NORMS = ["linf", "l2", "l1"]
SEARCHES = [
    name
    for name, make in ATTACKS.items()
    if make().is_iterative and make().access == "white-box" and not name.startswith("worst-case")
]
"""Searches with gradients; the worst case has its own file."""

MAY_MISS = {"pgd": 1, "apgd": 1, "selective-pgd": 4, "refined-pgd": 2}
"""Of thirty images, how many one run may miss: the margin over all targets has several maxima,
which small steps do not leave, and steps that alternate do not settle. Attacks on every target in
turn miss none: each target's margin is concave."""

PLAIN = {"whole-ball-pgd": partial(WholeBallPGD, radius=1e-9)}
"""Attacks on models without a radius: with one, a whole ball that is wrong may not exist."""

NULL_AWARE: dict[str, Attack] = {
    "logsumexp-margin": PGD(),
    "margin": PGD(loss="margin"),
    "margin, restarts": PGD(loss="margin", num_restarts=2),
    "targeted": MultiTargetedPGD(),
    "null-aware-pgd": null_aware_pgd(),
    "null-aware-pgd, bfloat16": null_aware_pgd(precision="bfloat16"),
    "apgd": APGD(num_steps=50),
    "apgd, margin": APGD(loss="margin", num_steps=50),
    "apgd, dlr": APGD(loss="dlr", num_steps=50),
    "apgd, targeted": MultiTargetedAPGD(num_steps=50),
    "selective": SelectivePGD(),
    "square": Square(num_queries=100),
}


def both_sides(
    attack: Attack, world: tuple[Classifier, Tensor, Tensor], optimum: float, norm: str
) -> tuple[str, str]:
    """Outcomes just below and just above the optimum, attacked in one batch."""
    model, image, label = world
    images, labels = image.repeat(2, 1, 1, 1), label.repeat(2)
    eps = optimum * torch.tensor([0.95, 1.05])
    adv_images = attack(model, images, labels, eps=eps, norm=norm, generator=seeded())
    below, above = outcome_of(model, adv_images, labels)
    return below, above


@pytest.mark.parametrize("name", NULL_AWARE)
def test_two_inputs(name: str) -> None:
    attack = NULL_AWARE[name]
    for a, b in ((0.002, 0.01), (0.87, 0.3)):
        below, above = both_sides(attack, two_input_world(a, b), b, "linf")
        assert (below != "fooled", above) == (True, "fooled"), (a, b)
    # Along x2 alone the distance is b in L2 and L1 too. A logsumexp margin spends part of such
    # a budget on null, unless the logits are sharp; scaling them moves no boundary.
    for norm in set(NORMS[1:]) & set(getattr(attack, "norms", NORMS)):
        below, above = both_sides(attack, two_input_world(a=0.01, b=0.01, scale=3000), 0.01, norm)
        assert (below != "fooled", above) == (True, "fooled"), norm


@pytest.mark.parametrize(
    "name", ["margin", "null-aware-pgd", "apgd, margin", "apgd, targeted", "selective"]
)
def test_two_inputs_with_flat_logits(name: str) -> None:
    for norm in ("l2", "l1"):
        world = two_input_world(a=0.1, b=0.1)
        assert both_sides(NULL_AWARE[name], world, 0.1, norm)[1] == "fooled", norm


def cross_entropy_pgd(
    model: Classifier, images: Tensor, labels: Tensor, eps: float, num_steps: int = 40
) -> Tensor:
    """PGD of other libraries: maximises cross-entropy and ignores null."""
    adv_images = images.clone()
    for _ in range(num_steps):
        adv_images.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(adv_images), labels), adv_images)
        adv_images = adv_images.detach() + 2.5 / num_steps * eps * gradient.sign()
        adv_images = adv_images.clamp(images - eps, images + eps).clamp(0, 1)
    return adv_images


@pytest.mark.parametrize("b", [0.01, 0.1, 0.3])
def test_cross_entropy_ends_in_null_at_every_budget(b: float) -> None:
    model, image, label = two_input_world(a=b, b=b)
    for eps in (1.05 * b, 1.5 * b, 2 * b, 0.5, 1.0):
        for adv_images in (
            cross_entropy_pgd(model, image, label, eps),
            FGSM("untargeted")(model, image, label, eps=eps),
        ):
            assert outcome_of(model, adv_images, label) == ["null"]


def test_fgsm_and_pgd_have_the_same_default_objective() -> None:
    model, image, label = two_input_world(a=0.1, b=0.1)
    assert FGSM().objective == PGD().objective == "fool"
    assert outcome_of(model, FGSM()(model, image, label, eps=0.105), label) == ["fooled"]


@settings(deadline=None, max_examples=10)
@given(
    a=st.floats(0.02, 0.5),
    b=st.floats(0.02, 0.4),
    shares=st.lists(st.floats(0, 0.999), min_size=4, max_size=4),
    norm=st.sampled_from(NORMS),
    name=st.sampled_from(SEARCHES),
)
def test_nothing_is_fooled_within_b(
    a: float, b: float, shares: list[float], norm: str, name: str
) -> None:
    model, image, label = two_input_world(a, b)
    images, labels, eps = image.repeat(4, 1, 1, 1), label.repeat(4), b * torch.tensor(shares)
    adv_images = ATTACKS[name]()(model, images, labels, eps=eps, norm=norm)
    assert "fooled" not in outcome_of(model, adv_images, labels)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SEARCHES)
def test_linear_models_are_fooled_within_a_quarter_of_the_optimum(
    name: str, norm: str, seed: int
) -> None:
    world = linear_batch(seed)
    optima = world.optima[norm].repeat(2)
    images, labels = world.images.repeat(2, 1, 1, 1), world.labels.repeat(2)
    is_below = torch.arange(60) < 30
    eps = torch.where(is_below, 0.99, 1.25) * optima
    attack = PLAIN.get(name, ATTACKS[name])()
    adv_images = attack(world.model, images, labels, eps=eps, norm=norm, generator=seeded())
    is_fooled = fooled(world.model, adv_images, labels)
    assert not is_fooled[is_below].any(), "nothing can succeed there"
    assert int((~is_fooled[~is_below]).sum()) <= MAY_MISS.get(name, 0)
    delta = (adv_images - images).double().flatten(1)
    sizes = delta.norm(p={"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
    assert (sizes <= eps * (1 + 1e-5)).all()
    assert (sizes >= optima * (1 - 1e-4))[is_fooled].all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "make",
    [
        lambda objective: PGD(objective, loss="margin"),
        MultiTargetedPGD,
        lambda objective: APGD(objective, loss="margin", num_steps=50),
        lambda objective: MultiTargetedAPGD(objective, num_steps=50),
        lambda objective: Square(objective, num_queries=100),
    ],
    ids=["pgd", "multi-targeted-pgd", "apgd", "multi-targeted-apgd", "square"],
)
def test_other_objectives_have_their_own_optimum(make: Callable[[str], Attack], norm: str) -> None:
    # From the origin null is reached along x1 alone after a / 3, the other class along x2 after b:
    # force-null needs the first, untargeted the nearer of the two.
    for objective, a, b in (
        ("force-null", 0.3, 0.05),
        ("untargeted", 0.3, 0.3),
        ("untargeted", 0.3, 0.05),
    ):
        attack = make(objective)
        if norm not in getattr(attack, "norms", NORMS):
            continue
        optimum = a / 3 if objective == "force-null" else min(a / 3, b)
        successes = {"null"} if objective == "force-null" else {"null", "fooled"}
        world = two_input_world(a=a, b=b, scale=300)
        below, above = both_sides(attack, world, optimum, norm)
        assert (below in successes, above in successes) == (False, True), (objective, a, b)
