"""Worlds in which it is known exactly when an image can be fooled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from worlds import linear_batch, outcome_of, two_input_world

from nullclass.attacks import (
    APGD,
    ATTACKS,
    FGSM,
    FMN,
    PGD,
    Attack,
    MultiTargetedAPGD,
    MultiTargetedPGD,
    SelectivePGD,
    null_aware_pgd,
)
from nullclass.models import Classifier

NORMS = ["linf", "l2", "l1"]

# What searches with gradients. The whole ensemble, which is far dearer, has its own file.
SEARCHES = [
    name
    for name, make in ATTACKS.items()
    if make().is_iterative and make().access == "white-box" and not name.startswith("worst-case")
]

# Of thirty images, how many a single climb may miss: it can end at a class that is not the nearest
# (the margin over all targets has several peaks), and steps that take turns do not settle. What
# aims at every target in turn misses none: each target's margin is concave.
MAY_MISS = {"pgd": 1, "apgd": 1, "selective-pgd": 4}

NULL_AWARE: dict[str, Attack] = {
    "smooth": PGD(loss="logsumexp-margin"),
    "hard": PGD(loss="margin"),
    "hard, restarts": PGD(loss="margin", num_restarts=2),
    "targeted": MultiTargetedPGD(),
    "null-aware-pgd": null_aware_pgd(),
    "null-aware-pgd, bfloat16": null_aware_pgd(precision="bfloat16"),
    "apgd, smooth": APGD(loss="logsumexp-margin"),
    "apgd, hard": APGD(loss="margin"),
    "apgd, dlr": APGD(loss="dlr"),
    "apgd, targeted": MultiTargetedAPGD(),
    "minimum norm": FMN(),
    "selective": SelectivePGD(),
}


def cross_entropy_pgd(
    model: Classifier, images: Tensor, labels: Tensor, eps: float, num_steps: int = 40
) -> Tensor:
    """What every attack library does: climb cross-entropy, blind to what null means."""
    adv_images = images.clone()
    for _ in range(num_steps):
        adv_images.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(adv_images), labels), adv_images)
        adv_images = adv_images.detach() + 2.5 / num_steps * eps * gradient.sign()
        adv_images = adv_images.clamp(images - eps, images + eps).clamp(0, 1)
    return adv_images


@pytest.mark.parametrize("name", NULL_AWARE)
@pytest.mark.parametrize("ratio", [0.2, 1.0, 2.9])
def test_two_inputs_linf(name: str, ratio: float) -> None:
    attack, generator = NULL_AWARE[name], torch.Generator().manual_seed(0)
    for b in (0.01, 0.1, 0.3):
        model, image, label = two_input_world(a=ratio * b, b=b)
        below = attack(model, image, label, eps=0.95 * b, generator=generator)
        above = attack(model, image, label, eps=1.05 * b, generator=generator)
        assert outcome_of(model, below, label) != ["fooled"], b
        assert outcome_of(model, above, label) == ["fooled"], b


@pytest.mark.parametrize("b", [0.01, 0.1, 0.3])
def test_cross_entropy_walks_into_null_at_every_budget(b: float) -> None:
    model, image, label = two_input_world(a=b, b=b)
    for eps in (1.05 * b, 1.5 * b, 2 * b, 0.5, 1.0):
        for adv_images in (
            cross_entropy_pgd(model, image, label, eps),
            FGSM("untargeted")(model, image, label, eps=eps),
        ):
            assert outcome_of(model, adv_images, label) == ["null"]


@pytest.mark.parametrize("name", NULL_AWARE)
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_two_inputs_l2_and_l1(name: str, norm: str) -> None:
    # Along x2 alone the distance is b in L2 and L1 too. A smooth margin spends part of such a
    # budget on pushing null away, unless the logits are sharp; scaling them moves no boundary.
    attack, generator = NULL_AWARE[name], torch.Generator().manual_seed(0)
    for b in (0.01, 0.1, 0.3):
        model, image, label = two_input_world(a=b, b=b, scale=30 / b)
        for share, may_fool in ((0.95, False), (1.05, True)):
            adv_images = attack(model, image, label, eps=share * b, norm=norm, generator=generator)
            assert (outcome_of(model, adv_images, label) == ["fooled"]) is may_fool, b


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize(
    "name", ["hard", "null-aware-pgd", "apgd, hard", "apgd, targeted", "minimum norm", "selective"]
)
def test_two_inputs_with_flat_logits(name: str, norm: str) -> None:
    model, image, label = two_input_world(a=0.1, b=0.1)
    adv_images = NULL_AWARE[name](model, image, label, eps=0.105, norm=norm)
    assert outcome_of(model, adv_images, label) == ["fooled"]


@settings(deadline=None, max_examples=30)
@given(
    a=st.floats(0.02, 0.5),
    b=st.floats(0.02, 0.4),
    eps=st.floats(0, 0.49),
    norm=st.sampled_from(NORMS),
    name=st.sampled_from(SEARCHES),
)
def test_nothing_is_fooled_within_b(a: float, b: float, eps: float, norm: str, name: str) -> None:
    model, image, label = two_input_world(a, b)
    adv_images = ATTACKS[name]()(model, image, label, eps=min(eps, 0.999 * b), norm=norm)
    assert outcome_of(model, adv_images, label) != ["fooled"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SEARCHES)
def test_linear_models_fall_within_a_quarter_of_the_optimum(name: str, norm: str) -> None:
    attack, generator = ATTACKS[name](), torch.Generator().manual_seed(0)
    for seed in range(2):
        world = linear_batch(seed)
        clean, optima = (world.model, world.images, world.labels), world.optima[norm]
        adv_images = attack(*clean, eps=1.25 * optima, norm=norm, generator=generator)
        is_fooled = torch.tensor(
            [told == "fooled" for told in outcome_of(world.model, adv_images, world.labels)]
        )
        delta = (adv_images - world.images).double().flatten(1)
        sizes = delta.norm(p={"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
        assert (sizes <= 1.25 * optima * (1 + 1e-5)).all(), "in budget"
        assert (sizes >= optima * (1 - 1e-4))[is_fooled].all(), "the optimum is one"
        assert int((~is_fooled).sum()) <= MAY_MISS.get(name, 0)
        below = attack(*clean, eps=0.99 * optima, norm=norm, generator=generator)
        assert "fooled" not in outcome_of(world.model, below, world.labels), "nothing can"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("objective", ["force-null", "untargeted"])
@pytest.mark.parametrize(
    "make",
    [
        lambda objective: PGD(objective, loss="margin"),
        lambda objective: MultiTargetedPGD(objective),
        lambda objective: APGD(objective, loss="margin"),
        lambda objective: MultiTargetedAPGD(objective),
        lambda objective: FMN(objective),
    ],
    ids=["pgd", "multi-targeted-pgd", "apgd", "multi-targeted-apgd", "fmn"],
)
def test_other_goals_have_their_own_optimum(
    make: Callable[[str], Attack], objective: str, norm: str
) -> None:
    # From the origin null is reached along x1 alone after a / 3, the other class along x2 after b:
    # deny needs the first, evade the nearer of the two.
    for a, b in ((0.3, 0.3), (0.3, 0.05)):
        model, image, label = two_input_world(a=a, b=b, scale=300)
        optimum = a / 3 if objective == "force-null" else min(a / 3, b)
        reached = ["null"] if objective == "force-null" else ["null", "fooled"]
        for share, is_reached in ((0.95, False), (1.05, True)):
            adv_images = make(objective)(model, image, label, eps=share * optimum, norm=norm)
            told = outcome_of(model, adv_images, label)[0]
            assert (told in reached) is is_reached, (a, b, share, told)
