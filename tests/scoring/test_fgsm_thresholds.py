"""The batched search gives the answers of the published loop, image by image."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import Affine, Digits

from nullclass.attacks import FGSM
from nullclass.core.errors import UserError
from nullclass.core.norms import step_along
from nullclass.data import LabelledImages
from nullclass.models import Classifier
from nullclass.scoring.fgsm_thresholds import (
    GRID,
    TOLERANCE,
    bracket,
    find_thresholds,
    thresholds_of,
)


def held_out(digits: Digits) -> LabelledImages:
    return LabelledImages(digits.images, digits.labels, 10)


def one_by_one(is_right: object) -> float:
    """The protocol as study-facts tells it, for one image; NaN without a threshold."""

    def first_wrong(values: list[float]) -> int | None:
        for place, eps in enumerate(values):
            if not is_right(eps):  # type: ignore[operator]
                return place
        return None

    place = first_wrong(list(GRID))
    if place in (None, 0):
        return math.nan
    low, high = GRID[place - 1], GRID[place]
    while high - low > TOLERANCE:
        values = [low * (high / low) ** (k / 9) for k in range(9)] + [high]
        place = first_wrong(values)
        assert place is not None
        low, high = values[place - 1], values[place]
    return high


def test_the_grid_is_the_published_one() -> None:
    assert len(GRID) == 10
    assert GRID[0] == 0
    assert GRID[1] == pytest.approx(1e-3)
    assert GRID[-1] == 1
    ratios = [GRID[k + 1] / GRID[k] for k in range(1, 9)]
    assert ratios == pytest.approx([10 ** (3 / 8)] * 8)


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(0, 1.1), min_size=1, max_size=4), min_size=1, max_size=5))
def test_like_the_loop_whatever_the_model_answers(flips: list[list[float]]) -> None:
    """Answers that change at several eps, so that they are anything but monotone."""

    def right(image: int, eps: float) -> bool:
        return sum(eps >= flip for flip in flips[image]) % 2 == 0

    def is_right(which: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        pairs = zip(which.tolist(), eps.tolist(), strict=True)
        return torch.tensor([right(image, value) for image, value in pairs])

    found = bracket(is_right, len(flips), torch.device("cpu"))
    for image in range(len(flips)):
        expected = one_by_one(lambda eps, image=image: right(image, torch.tensor(eps).item()))
        assert found[image].item() == pytest.approx(expected, abs=1e-7, nan_ok=True)


def test_no_question_is_asked_twice_and_none_without_need() -> None:
    asked: list[tuple[int, float]] = []
    limits = torch.tensor([0.0, 5e-4, 0.02, 0.31, 2.0])

    def is_right(which: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        asked.extend(zip(which.tolist(), eps.tolist(), strict=True))
        return eps < limits[which]

    found = bracket(is_right, 5, torch.device("cpu"))
    assert len(set(asked)) == len(asked)
    assert found.isnan().tolist() == [True, False, False, False, True]
    assert (found[1:4] - limits[1:4]).tolist() == pytest.approx([0, 0, 0], abs=TOLERANCE)
    assert (found[1:4] >= limits[1:4]).all(), "the wrong end"
    assert sum(image == 0 for image, _ in asked) == 1
    assert sum(image == 4 for image, _ in asked) == len(GRID)


def test_exact_on_a_linear_model() -> None:
    """Two classes, a logit difference of w x: the ray meets the border at a known eps."""
    weight = torch.tensor([[1.0, -2.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0], [-50.0] * 4])
    model = Classifier(Affine(weight, torch.zeros(3)), num_classes=2)
    images = 0.5 + 0.05 * torch.randn(40, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = model.predict(images)
    margins = (images.flatten(1) @ weight[0]).abs()
    exact = margins / weight[0].abs().sum()
    found = thresholds_of(model, images, labels)
    assert (found > exact - 1e-6).all()
    assert (found - exact).max() <= TOLERANCE
    assert exact.max() < 0.4, "far from the box"


def test_like_the_loop_on_digits(digits: Digits) -> None:
    model, data = digits.guarded, held_out(digits)
    first, wanted = 11, 40
    images, thresholds = find_thresholds(model, data, first_image=first, num_images=wanted)
    expected_images, expected = [], []
    for step in range(len(data)):
        index = (first + step) % len(data)
        image, label = data.batch([index])
        direction = FGSM("untargeted").direction(model, image, label, norm="linf")

        def is_right(
            eps: float,
            image: torch.Tensor = image,
            label: torch.Tensor = label,
            direction: torch.Tensor = direction,
        ) -> bool:
            moved = step_along(direction, image, torch.tensor([eps]), "linf")
            return bool(model.predict(moved) == label)

        threshold = one_by_one(is_right)
        if not math.isnan(threshold):
            expected_images.append(index)
            expected.append(threshold)
        if len(expected) == wanted:
            break
    assert images.tolist() == expected_images
    assert thresholds.tolist() == pytest.approx(expected, abs=1e-6)
    answers = model.predict(data.batch(images)[0])
    assert (answers == data.batch(images)[1]).all(), "right at 0"


def test_round_and_round_but_once(digits: Digits) -> None:
    data = held_out(digits).first(30)
    images, _ = find_thresholds(digits.guarded, data, first_image=25, num_images=10)
    assert images[0] >= 25 or images[0] < 10
    assert len(set(images.tolist())) == 10
    with pytest.raises(UserError, match=r"only \d+ of 30 images are correct and fooled"):
        find_thresholds(digits.guarded, data, first_image=0, num_images=31)


def test_the_model_is_left_as_it_was(digits: Digits) -> None:
    model, data = digits.guarded, held_out(digits)
    model.train()
    try:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        thresholds_of(model, *data.batch(range(5)))
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
    finally:
        model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_batch_is_data(digits: Digits) -> None:
    """Not only LabelledImages of bytes: floats give the same."""
    images, labels = held_out(digits).batch(range(20))
    floats = LabelledImages(images, labels, 10)
    one = find_thresholds(digits.guarded, held_out(digits).first(20), first_image=0, num_images=5)
    two = find_thresholds(digits.guarded, floats, first_image=0, num_images=5)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
