"""The smallest eps: exact on linear models, no larger than foolbox's on digits, within the box."""

from __future__ import annotations

from dataclasses import dataclass

import foolbox
import pytest
import torch
from torch import Tensor, nn
from worlds import Digits, fooled, linear_batch, outcome_of, two_input_world

from nullclass.attacks import FMN, PGD, MultiTargetedPGD
from nullclass.attacks.counters import count_passes
from nullclass.attacks.losses import ObjectiveName
from nullclass.core.norms import find_ball
from nullclass.models import Classifier

NORMS = ["linf", "l2", "l1"]
ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}
NUM_STEPS = {"linf": 50, "l2": 50, "l1": 100}
"""On digits, foolbox's and ours; in L1 both need more."""


def size(delta: Tensor, norm: str) -> Tensor:
    return delta.double().flatten(1).norm(p=ORDERS[norm], dim=1)


@dataclass
class Smallest:
    """What the attack finds on the first digits, with all targets."""

    norm: str
    model: Classifier
    images: Tensor
    labels: Tensor
    adv_images: Tensor
    sizes: Tensor


@pytest.fixture(scope="module", params=["linf", "l2", pytest.param("l1", marks=pytest.mark.slow)])
def smallest(request: pytest.FixtureRequest, digits: Digits) -> Smallest:
    model, images, labels = digits.guarded, digits.images[:30], digits.labels[:30]
    adv_images, sizes = FMN(num_steps=NUM_STEPS[request.param]).smallest(
        model, images, labels, norm=request.param
    )
    return Smallest(request.param, model, images, labels, adv_images, sizes)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("a", "b"), [(0.002, 0.01), (0.87, 0.3)])
def test_two_inputs(a: float, b: float, norm: str) -> None:
    model, image, label = two_input_world(a, b)
    adv_images, sizes = FMN().smallest(model, image, label, norm=norm)
    assert outcome_of(model, adv_images, label) == ["fooled"]
    assert b * (1 - 1e-6) <= float(sizes) <= 1.01 * b


@pytest.mark.parametrize("norm", NORMS)
def test_linear_optima_are_reached_and_never_undercut(norm: str) -> None:
    world = linear_batch(0)
    adv_images, sizes = FMN().smallest(world.model, world.images, world.labels, norm=norm)
    assert fooled(world.model, adv_images, world.labels).all()
    torch.testing.assert_close(sizes.double(), size(adv_images - world.images, norm))
    ratio = sizes / world.optima[norm]
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.25
    assert ratio.median() < 1.002, "most are exact"


@pytest.mark.parametrize(
    ("objective", "b", "norm"),
    [
        ("force-null", 0.05, "linf"),
        ("force-null", 0.05, "l1"),
        ("untargeted", 0.3, "l2"),
        ("untargeted", 0.05, "linf"),
        ("untargeted", 0.05, "l1"),
    ],
)
def test_other_objectives(objective: ObjectiveName, b: float, norm: str) -> None:
    # Null lies along x1 alone after 0.3 / 3, the other class along x2 after b.
    model, image, label = two_input_world(a=0.3, b=b)
    optimum = 0.1 if objective == "force-null" else min(0.1, b)
    adv_images, sizes = FMN(objective=objective).smallest(model, image, label, norm=norm)
    reached = ["null"] if objective == "force-null" else ["null", "fooled"]
    assert outcome_of(model, adv_images, label)[0] in reached
    assert optimum * (1 - 1e-6) <= float(sizes) <= 1.01 * optimum


def test_what_is_found_is_what_is_claimed(smallest: Smallest) -> None:
    assert fooled(smallest.model, smallest.adv_images, smallest.labels).all()
    delta = smallest.adv_images - smallest.images
    torch.testing.assert_close(smallest.sizes.double(), size(delta, smallest.norm))
    assert smallest.adv_images.min() >= 0
    assert smallest.adv_images.max() <= 1


def test_it_beats_foolbox_aimed_at_every_class(smallest: Smallest) -> None:
    # They never aim at null, so their targeted attack is null-aware too.
    model, images, labels = smallest.model, smallest.images, smallest.labels
    maker = {
        "linf": foolbox.attacks.LInfFMNAttack,
        "l2": foolbox.attacks.L2FMNAttack,
        "l1": foolbox.attacks.L1FMNAttack,
    }[smallest.norm]
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    best = torch.full((len(images),), torch.inf, dtype=torch.float64)
    best[fooled(model, images, labels)] = 0
    for shift in range(1, 10):
        criterion = foolbox.criteria.TargetedMisclassification((labels + shift) % 10)
        adv_images = maker(steps=NUM_STEPS[smallest.norm]).run(theirs, images, criterion)
        is_found = fooled(model, adv_images, labels)
        sizes = size(adv_images - images, smallest.norm)
        best = torch.where(is_found, best.minimum(sizes), best)
    ratio = (smallest.sizes.double() / best)[best > 0]
    assert (ratio <= 1.02).double().mean() > 0.95
    assert ratio.median() <= 1.001
    assert ratio.mean() < 1


def test_more_targets_only_add(smallest: Smallest) -> None:
    model, images, labels = smallest.model, smallest.images, smallest.labels
    few = FMN(num_steps=NUM_STEPS[smallest.norm], num_targets=1).smallest(
        model, images, labels, norm=smallest.norm
    )[1]
    assert (smallest.sizes <= few).all()
    assert (smallest.sizes < 0.999 * few).any()


def test_smallest_is_no_weaker_than_pgd(smallest: Smallest) -> None:
    model, images, labels = smallest.model, smallest.images, smallest.labels
    budgets = smallest.sizes.quantile(torch.tensor([0.3, 0.6]))
    eps = budgets.repeat_interleave(len(images))
    images, labels = images.repeat(2, 1, 1, 1), labels.repeat(2)
    for attack in (PGD(loss="margin"), MultiTargetedPGD()):
        adv_images = attack(model, images, labels, eps=eps, norm=smallest.norm)
        for budget, is_fooled in zip(
            budgets, fooled(model, adv_images, labels).view(2, -1), strict=True
        ):
            assert is_fooled.sum() > 5
            assert (smallest.sizes <= 1.02 * budget)[is_fooled].double().mean() > 0.97


@pytest.mark.parametrize(("norm", "scale"), [("linf", 0.01), ("l2", 1e4)])
def test_the_scale_of_the_logits_does_not_matter(norm: str, scale: float) -> None:
    world = linear_batch(0, scale=scale)
    sizes = FMN().smallest(world.model, world.images, world.labels, norm=norm)[1]
    assert (sizes / world.optima[norm]).max() < 1.05


@pytest.mark.parametrize("norm", NORMS)
def test_where_nothing_can_be_found(norm: str) -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            brightness = x.flatten(1).mean(1)
            return torch.stack([brightness * 0, brightness - 2, brightness - 3], dim=1)

    model, labels = Classifier(Never(), 2), torch.zeros(5, dtype=torch.int64)
    images = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    adv_images, sizes = FMN(num_steps=30).smallest(model, images, labels, norm=norm)
    assert sizes.isinf().all()
    assert adv_images.min() >= 0
    assert adv_images.max() <= 1
    assert (adv_images.flatten(1).mean(1) > images.flatten(1).mean(1)).all(), "the best try"
    eps = 0.3
    tried = FMN(num_steps=30)(model, images, labels, eps=eps, norm=norm)
    assert (size(tried - images, norm) <= eps + 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
def test_no_further_than_the_box(norm: str) -> None:
    # Only white images are another class: as far as it goes, and no further.
    class White(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            darkest = x.flatten(1).amin(1)
            return torch.stack([darkest * 0, darkest - 0.999, darkest * 0 - 3], dim=1)

    model, labels = Classifier(White(), 2), torch.zeros(4, dtype=torch.int64)
    images = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    adv_images, sizes = FMN(num_steps=NUM_STEPS[norm]).smallest(model, images, labels, norm=norm)
    assert fooled(model, adv_images, labels).any()
    farthest = find_ball(norm).size(1 - images)
    assert (sizes <= farthest * (1 + 1e-6))[sizes.isfinite()].all()
    assert adv_images.max() <= 1


def test_images_fooled_when_clean_have_size_zero_and_cost_two_passes(digits: Digits) -> None:
    model, images = digits.guarded, digits.images[:40]
    with torch.no_grad():
        answers = model(images).argmax(1)
    wrong = (answers + 1) % 10
    is_fooled = fooled(model, images, wrong)
    assert is_fooled.sum() > 30
    images, wrong = images[is_fooled], wrong[is_fooled]
    with count_passes(model) as passes:
        adv_images, sizes = FMN().smallest(model, images, wrong, norm="l2")
    assert torch.equal(adv_images, images)
    assert torch.equal(sizes, torch.zeros(len(images)))
    assert passes.forward == 2 * len(images), "one to score them, and one to rank the targets"
    assert passes.backward == 0


def test_as_an_attack_it_finds_what_lies_within_eps(smallest: Smallest) -> None:
    model, images, labels, norm = smallest.model, smallest.images, smallest.labels, smallest.norm
    largest = find_ball(norm).largest(64)
    for share, least, passes_each in ((1.02, 0.97, 12 * NUM_STEPS[norm]), (3.0, 1.0, 40)):
        budgets = (share * smallest.sizes).clamp(max=largest)
        with count_passes(model) as passes:
            adv_images = FMN(num_steps=NUM_STEPS[norm])(
                model, images, labels, eps=budgets, norm=norm
            )
        assert fooled(model, adv_images, labels).double().mean() >= least
        assert (size(adv_images - images, norm) <= budgets.double() * (1 + 1e-5) + 1e-7).all()
        assert passes.forward < passes_each * len(images), "done at the first success within eps"
    tight = 0.2 * smallest.sizes
    attack = FMN(num_steps=NUM_STEPS[norm], num_targets=1)
    adv_images = attack(model, images, labels, eps=tight, norm=norm)
    assert (size(adv_images - images, norm) <= tight.double() * (1 + 1e-5) + 1e-7).all()


def test_without_null_and_without_images(digits: Digits) -> None:
    model, images, labels = digits.plain, digits.images[:20], digits.labels[:20]
    adv_images, sizes = FMN(num_targets=1).smallest(model, images, labels, norm="linf")
    assert fooled(model, adv_images, labels).all()
    assert sizes.shape == (20,)
    nothing, none = FMN().smallest(model, images[:0], labels[:0], norm="linf")
    assert nothing.shape == (0, 1, 8, 8)
    assert none.shape == (0,)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_as_an_attack_it_stops_within_eps_or_goes_on_to_the_nearest(norm: str) -> None:
    a, b = 0.002, 0.01
    model, image, label = two_input_world(a, b)
    first = FMN()(model, image, label, eps=0.4, norm=norm)
    nearest = FMN(is_nearest=True)(model, image, label, eps=0.4, norm=norm)
    assert outcome_of(model, first, label) == outcome_of(model, nearest, label) == ["fooled"]
    assert b * (1 - 1e-6) <= float(size(nearest - image, norm)) <= 1.01 * b
    assert float(size(first - image, norm)) > 1.01 * b
    beyond = FMN(is_nearest=True)(model, image, label, eps=0.9 * b, norm=norm)
    assert outcome_of(model, beyond, label) != ["fooled"]
    assert float(size(beyond - image, norm)) <= 0.9 * b * (1 + 1e-6)


def test_a_tie_is_left() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        body[1].weight.copy_(torch.eye(2))  # type: ignore[operator]
        body[1].bias.fill_(-0.5)  # type: ignore[operator, union-attr]
    model = Classifier(body, 2, has_null=False)
    images = torch.full((1, 1, 1, 2), 0.5)
    _, sizes = FMN().smallest(model, images, torch.tensor([0]), norm="linf")
    assert 0 < sizes[0] < 0.01
