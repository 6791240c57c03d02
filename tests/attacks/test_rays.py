"""RayS: exact optima, a slow loop of one image, a world with null on both sides, labels alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_only import labels_for_logits
from torch import Tensor, nn
from worlds import Affine, Digits, fooled, linear_batch, outcome_of, seeded, two_input_world

from nullclass.attacks import PGD, AttackEnsemble, DatasetAttack, Noise, RayS, Square
from nullclass.attacks.base import TakesReferenceImages
from nullclass.attacks.counters import count_passes
from nullclass.attacks.external import EXTERNAL
from nullclass.attacks.losses import ObjectiveName
from nullclass.core.errors import UserError
from nullclass.core.norms import is_allowed
from nullclass.data import LabelledImages
from nullclass.models import Classifier


def random_reference(*shape: int, num_images: int = 300) -> LabelledImages:
    images = torch.rand(num_images, *shape, generator=torch.Generator().manual_seed(8))
    return LabelledImages(images, torch.zeros(num_images, dtype=torch.int64), num_classes=4)


def right_digits(digits: Digits, model: Classifier, num: int) -> tuple[Tensor, Tensor]:
    is_right = model.predict(digits.images) == digits.labels
    return digits.images[is_right][:num], digits.labels[is_right][:num]


def digit_reference(digits: Digits) -> LabelledImages:
    return LabelledImages(digits.train_images[:300], digits.train_labels[:300])


# Exact worlds.


@pytest.mark.parametrize("seed", range(3))
def test_it_is_exact_with_one_boundary(seed: int) -> None:
    # Two classes, no null: the optimum is the margin over the L1 size of the weights' difference.
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, 25, generator=generator)
    bias = -weight.sum(dim=1) / 2
    model = Classifier(Affine(weight, bias), 2, has_null=False)
    images = 0.3 + 0.4 * torch.rand(40, 1, 5, 5, generator=generator)
    labels = model.predict(images)
    with torch.no_grad():
        logits = model(images)
    optimum = (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).abs().sum()
    attack = RayS(random_reference(1, 5, 5), num_queries=400, tolerance=1e-5)
    images, labels = images.repeat(2, 1, 1, 1), labels.repeat(2)
    eps = torch.cat([0.999 * optimum, 1.001 * optimum + 2e-5])
    adv_images = attack(model, images, labels, eps=eps)
    assert torch.equal(fooled(model, adv_images, labels), torch.arange(80) >= 40)


def test_it_is_near_the_optimum_on_linear_models_with_null() -> None:
    # Two boundaries at a time, whose optimum need not be a corner, and a search flip by flip.
    num_found = torch.zeros(3, dtype=torch.int64)
    for seed in range(2):
        world = linear_batch(seed)
        attack = RayS(random_reference(1, 3, 3), num_queries=300, tolerance=1e-4)
        images, labels = world.images.repeat(3, 1, 1, 1), world.labels.repeat(3)
        eps = torch.tensor([0.99, 1.05, 1.25])[:, None] * world.optima["linf"]
        adv_images = attack(world.model, images, labels, eps=eps.flatten())
        num_found += fooled(world.model, adv_images, labels).view(3, 30).sum(dim=1)
    assert num_found[0] == 0
    assert num_found[1] >= 0.85 * 60, num_found
    assert num_found[2] >= 0.9 * 60, num_found


@settings(max_examples=10)
@given(a=st.floats(0.02, 0.4), b=st.floats(0.05, 0.4), scale=st.sampled_from([0.1, 1.0, 100.0]))
def test_null_is_no_success(a: float, b: float, scale: float) -> None:
    # Every direction that moves the first input up ends in null, and half of all do.
    model, image, label = two_input_world(a, b, scale)
    attack = RayS(random_reference(1, 1, 2), num_queries=100, tolerance=1e-4)
    assert (model.predict(attack.reference_images.images) == -1).any()  # type: ignore[union-attr]
    images, labels = image.repeat(2, 1, 1, 1), label.repeat(2)
    adv_images = attack(model, images, labels, eps=b * torch.tensor([0.95, 1.05]))
    assert outcome_of(model, adv_images, labels) == ["correct", "fooled"]


class Band(nn.Module):
    """Class 1 between 0.60 and 0.66, the true class 0 below 0.54, null everywhere else."""

    def forward(self, images: Tensor) -> Tensor:
        value = images.flatten(1).mean(dim=1)
        is_other = (value >= 0.60) & (value <= 0.66)
        is_null = ~is_other & (value > 0.54)
        predicted = torch.where(is_other, 1, torch.where(is_null, 2, 0))
        return nn.functional.one_hot(predicted, 3).float()


def test_null_on_both_sides_of_what_is_looked_for() -> None:
    # The ray's corner is null, and so is half of the way: "fooled from here on" is never true.
    model, image, label = Classifier(Band(), 2), torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    reference = LabelledImages(
        torch.tensor([0.1, 0.64, 0.9]).view(3, 1, 1, 1).expand(3, 1, 2, 2), label.expand(3)
    )
    attack = RayS(reference, num_queries=100)
    for eps, outcome in ((0.099, "correct"), (0.1025, "fooled"), (0.3, "fooled"), (1.0, "fooled")):
        adv_images = attack(model, image, label, eps=eps)
        if outcome == "correct":
            assert outcome_of(model, adv_images, label) != ["fooled"]
        else:
            assert outcome_of(model, adv_images, label) == ["fooled"], eps
    # Towards white, as in the paper, nothing is ever found, and nothing is done.
    from_white = RayS(reference, num_starts=0, num_queries=100)
    assert torch.equal(from_white(model, image, label, eps=1.0), image)
    # force-null looks for null itself, from an image that is null or towards white.
    for starts in (0, 5):
        force_null = RayS(reference, "force-null", num_starts=starts, num_queries=100)
        assert outcome_of(model, force_null(model, image, label, eps=0.043), label) == ["null"]
        assert outcome_of(model, force_null(model, image, label, eps=0.039), label) == ["correct"]


# The same search, one image at a time, in plain loops.


def slow_rays(
    model: Classifier, image: Tensor, label: Tensor, eps: float, attack: RayS
) -> tuple[Tensor, int]:
    """The attacked image and the queries it took; the reference's answers are known."""
    left = count(1)
    num_queries_made, size = 0, image.numel()
    state = {"radius": 1.0, "end": torch.ones_like(image), "found": False}

    class DoneError(Exception):
        pass

    def succeeds(end: Tensor, radius: float) -> bool:
        nonlocal num_queries_made
        if num_queries_made == attack.num_queries or (state["found"] and state["radius"] <= eps):
            raise DoneError
        num_queries_made = next(left)
        point = (image + (end - image).clamp(-radius, radius)).clamp(0, 1)
        return outcome_of(model, point, label) == ["fooled"]

    def ends() -> Iterator[tuple[Tensor, bool]]:
        assert attack.reference_images is not None
        reference = attack.reference_images.images.to(image)
        nearest = {}
        for candidate, answer in zip(reference, model.predict(reference).tolist(), strict=True):
            distance = float((candidate - image[0]).norm())
            if answer not in (-1, int(label)) and distance < nearest.get(answer, (9.0,))[0]:
                nearest[answer] = (distance, candidate)
        for _, candidate in sorted(nearest.values(), key=lambda pair: pair[0])[: attack.num_starts]:
            yield candidate[None], True
        yield torch.ones_like(image), True
        while True:
            end = state["end"]
            yield torch.where(end > image, 1.0, torch.where(end < image, 0.0, end)), False
            for num_blocks in (*(2**n for n in range(20) if 2**n < size), size):
                for block in range(num_blocks):
                    flipped = state["end"].clone().flatten()
                    for pixel, value in enumerate(image.flatten().tolist()):
                        if pixel * num_blocks // size == block:
                            now = float(flipped[pixel])
                            flipped[pixel] = float(value <= 0.5 if now == value else now < value)
                    yield flipped.view_as(image), False

    try:
        for end, is_start in ends():
            if not succeeds(end, state["radius"]):
                continue
            state.update(end=end, found=True)
            low, leap = 0.0, 0.0 if is_start else attack.tolerance
            while state["radius"] - low >= 1.5 * attack.tolerance:
                at = (low + state["radius"]) / 2
                at = max(at, state["radius"] - leap) if leap else at
                if succeeds(end, at):
                    state["radius"], leap = at, 2 * leap
                else:
                    low, leap = at, 0.0
    except DoneError:
        pass
    if not state["found"]:
        return image, num_queries_made
    radius = min(state["radius"], eps)
    return (image + (state["end"] - image).clamp(-radius, radius)).clamp(0, 1), num_queries_made


@pytest.mark.parametrize("eps", [0.05, 0.12, 0.3])
def test_a_batch_is_searched_like_image_by_image(digits: Digits, eps: float) -> None:
    model = Classifier(digits.guarded.body, 10)
    images, labels = right_digits(digits, model, 8)
    model = model.double()
    try:
        images = images.double()
        images[0, 0, :2] = 0.375  # and pixels that have no direction yet
        attack = RayS(digit_reference(digits), num_queries=150, num_starts=3)
        with count_passes(model) as passes:
            together = attack(model, images, labels, eps=eps)
        num_made = 0
        for one in range(len(images)):
            image, label = images[one : one + 1], labels[one : one + 1]
            alone, num_queries_made = slow_rays(model, image, label, eps, attack)
            torch.testing.assert_close(together[one : one + 1], alone, atol=1e-9, rtol=0)
            num_made += num_queries_made
        assert passes.forward == num_made + len(images) + 300
    finally:
        model.float()


# Labels alone, and no more of them than allowed.


@pytest.mark.parametrize("objective", ["fool", "force-null", "untargeted"])
def test_scores_change_nothing(digits: Digits, objective: ObjectiveName) -> None:
    model, images, labels = digits.guarded, digits.images[:20], digits.labels[:20]
    attack = RayS(digit_reference(digits), objective, num_queries=150)
    with_scores, without = (
        attack(m, images, labels, eps=0.12) for m in (model, labels_for_logits(model))
    )
    assert torch.equal(with_scores, without)
    wanted = {"fool": {"fooled"}, "force-null": {"null"}, "untargeted": {"fooled", "null"}}[
        objective
    ]
    num = sum(scored in wanted for scored in outcome_of(model, with_scores, labels))
    assert 2 < num <= 20, "a budget that decides something"


def test_queries_are_counted_and_spent_on_active_images(digits: Digits) -> None:
    model = digits.guarded
    images, labels = right_digits(digits, model, 30)
    extra = 30 + 300
    for num_queries in (1, 2, 10, 100):
        attack = RayS(digit_reference(digits), num_queries=num_queries)
        with count_passes(model) as passes:
            attack(model, images, labels, eps=0.001)
        assert passes.forward == 30 * num_queries + extra, "none was fooled, all was spent"
    with count_passes(model) as passes:
        adv_images = RayS(digit_reference(digits))(model, images, labels, eps=1.0)
    assert passes.forward == 30 + extra, "where the ball is the box, the first candidate does"
    assert fooled(model, adv_images, labels).all()
    with count_passes(model) as passes:
        RayS(digit_reference(digits), num_candidates=20)(model, images, labels, eps=1.0)
    assert passes.forward <= 30 * 3 + 30 + 20
    with count_passes(model) as passes:
        RayS(digit_reference(digits))(model, images, labels, eps=0.0)
    assert passes.forward == 30, "nothing allowed, nothing done"


def test_more_never_finds_less(digits: Digits) -> None:
    # The search knows neither eps nor its queries: it only stops earlier or later.
    model = digits.guarded
    images, labels = right_digits(digits, model, 20)
    images, labels = images.repeat(3, 1, 1, 1), labels.repeat(3)
    eps = torch.tensor([0.05, 0.1, 0.15]).repeat_interleave(20)
    found = []
    for num_queries in (15, 60, 240):
        attack = RayS(digit_reference(digits), num_queries=num_queries)
        adv_images = attack(model, images, labels, eps=eps)
        found.append(fooled(model, adv_images, labels).view(3, 20))
    succeeded = torch.stack(found).int()  # queries, eps, images
    assert (succeeded.diff(dim=0) >= 0).all(), "more queries"
    assert (succeeded.diff(dim=1) >= 0).all(), "larger eps"
    counts = succeeded.sum(dim=2)
    assert counts[0, 0] < counts[1, 1] < counts[2, 2], counts


# What it finds, beside others.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "guarded"])
def test_it_finds_what_others_find(digits: Digits, name: str) -> None:
    model: Classifier = getattr(digits, name)
    images, labels = right_digits(digits, model, 300)
    chosen = (
        (labels % 5 == 3).nonzero().flatten()[:24]
    )  # of two classes: foolbox sees one at a time
    images, labels = images[chosen], labels[chosen]
    reference, eps = digit_reference(digits), 0.12
    pytest.importorskip("foolbox")
    walker = EXTERNAL["foolbox-hopskipjump"]()
    assert isinstance(walker, TakesReferenceImages)
    attacks = {
        "rays": RayS(reference, num_queries=800),
        "hop skip jump": walker.with_reference_images(reference),  # about 1,800 labels
        "square": Square(num_queries=800),  # with scores
        "dataset": DatasetAttack(reference),
    }
    num = {}
    for kind, attack in attacks.items():
        generator = torch.Generator().manual_seed(0)
        adv_images = attack(model, images, labels, eps=eps, generator=generator)
        num[kind] = int(fooled(model, adv_images, labels).sum())
    assert num["rays"] > num["hop skip jump"] > num["dataset"], num
    assert num["rays"] >= 0.8 * num["square"], num
    assert num["square"] < 24, "a budget that decides something"


def test_one_pixel_and_another_norm() -> None:
    one_pixel = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(1, 3)), 2)
    images, labels = torch.rand(20, 1, 1, 1, generator=seeded()), torch.zeros(20, dtype=torch.int64)
    adv_images = RayS(num_queries=30)(one_pixel, images, labels, eps=0.2)
    assert is_allowed(adv_images, images, 0.2, "linf").all()
    for norm in ("l2", "l1"):
        with pytest.raises(UserError, match=f"norm of RayS must be one of linf, not '{norm}'"):
            RayS()(one_pixel, images, labels, eps=0.1, norm=norm)


def test_an_ensemble_uses_the_most_that_a_member_uses() -> None:
    for other, access in ((Noise(), "labels"), (Square(), "scores"), (PGD(), "white-box")):
        assert AttackEnsemble((other, RayS())).access == access
