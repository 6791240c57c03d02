"""The batched search of FGSM thresholds, against the published loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
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


@pytest.fixture(scope="module")
def data(digits: Digits) -> LabelledImages:
    return LabelledImages(digits.images, digits.labels, 10)


def test_the_grid_is_the_published_one() -> None:
    assert pytest.approx((0, *(10 ** (-3 + 3 * k / 8) for k in range(9)))) == GRID


def one_by_one(is_correct: Callable[[float], bool]) -> float:
    """The published protocol for one image; NaN without a threshold."""

    def first_wrong(values: list[float]) -> int | None:
        return next((n for n, eps in enumerate(values) if not is_correct(eps)), None)

    index = first_wrong(list(GRID))
    if index in (None, 0):
        return math.nan
    low, high = GRID[index - 1], GRID[index]
    while high - low > TOLERANCE:
        values = [low * (high / low) ** (k / 9) for k in range(9)] + [high]
        index = first_wrong(values)
        assert index is not None
        low, high = values[index - 1], values[index]
    return high


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(0, 1.1), min_size=1, max_size=4), min_size=1, max_size=5))
def test_the_batched_search_equals_the_loop(flips: list[list[float]]) -> None:
    """Answers that change at several eps, so that they are not monotone."""

    def correct(image: int, eps: float) -> bool:
        return sum(eps >= flip for flip in flips[image]) % 2 == 0

    def is_correct(indices: Tensor, eps: Tensor) -> Tensor:
        pairs = zip(indices.tolist(), eps.tolist(), strict=True)
        return torch.tensor([correct(image, value) for image, value in pairs])

    thresholds = bracket(is_correct, len(flips), torch.device("cpu"))
    for image in range(len(flips)):
        expected = one_by_one(lambda eps, image=image: correct(image, torch.tensor(eps).item()))
        assert thresholds[image].item() == pytest.approx(expected, abs=1e-7, nan_ok=True)


def test_no_eps_is_tried_twice_or_without_need() -> None:
    tried: list[tuple[int, float]] = []
    limits = torch.tensor([0.0, 5e-4, 0.02, 0.31, 2.0])

    def is_correct(indices: Tensor, eps: Tensor) -> Tensor:
        tried.extend(zip(indices.tolist(), eps.tolist(), strict=True))
        return eps < limits[indices]

    thresholds = bracket(is_correct, 5, torch.device("cpu"))
    assert len(set(tried)) == len(tried)
    assert thresholds.isnan().tolist() == [True, False, False, False, True]
    assert (thresholds[1:4] - limits[1:4]).tolist() == pytest.approx([0, 0, 0], abs=TOLERANCE)
    assert (thresholds[1:4] >= limits[1:4]).all(), "the wrong end"
    assert sum(image == 0 for image, _ in tried) == 1
    assert sum(image == 4 for image, _ in tried) == len(GRID)


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


def test_digits_equal_the_loop(digits: Digits, data: LabelledImages) -> None:
    model, first = digits.guarded, 11
    images, thresholds = find_thresholds(model, data, first_image=first, num_images=40)
    expected: dict[int, float] = {}
    for index in [(first + step) % len(data) for step in range(len(data))]:
        image, label = data.batch([index])
        direction = FGSM("untargeted").direction(model, image, label, norm="linf")
        threshold = one_by_one(
            lambda eps, image=image, label=label, direction=direction: bool(
                model.predict(step_along(direction, image, torch.tensor([eps]), "linf")) == label
            )
        )
        if not math.isnan(threshold):
            expected[index] = threshold
        if len(expected) == 40:
            break
    assert images.tolist() == list(expected)
    assert thresholds.tolist() == pytest.approx(list(expected.values()), abs=1e-6)
    batch, labels = data.batch(images)
    assert (model.predict(batch) == labels).all(), "correct at 0"


def test_the_search_wraps_around_once(digits: Digits, data: LabelledImages) -> None:
    few = data.first(30)
    images, _ = find_thresholds(digits.guarded, few, first_image=25, num_images=10)
    assert images[0] >= 25 or images[0] < 10
    assert len(set(images.tolist())) == 10
    with pytest.raises(UserError, match=r"only \d+ of 30 images are correct and fooled"):
        find_thresholds(digits.guarded, few, first_image=0, num_images=31)
