from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from worlds import seeded

from nullclass.core.errors import UserError
from nullclass.data import Dataset, LabelledImages
from nullclass.nulls import BackgroundNulls, make_nulls


def some(num: int, shape: tuple[int, int, int] = (1, 2, 3)) -> LabelledImages:
    """Bytes, as files hold them; each image has its number in every pixel."""
    images = torch.arange(num, dtype=torch.uint8).view(-1, 1, 1, 1).expand(num, *shape)
    return LabelledImages(images.clone(), torch.zeros(num, dtype=torch.int64))


def numbers(images: torch.Tensor) -> list[int]:
    """Which images were drawn; every pixel has to say the same."""
    assert (images == images[:, :1, :1, :1]).all()
    found = (images[:, 0, 0, 0] * 255).round()
    assert torch.equal(images[:, 0, 0, 0], found / 255), "bytes over 255"
    return [int(number) for number in found]


def test_images_are_drawn_uniformly_and_with_replacement() -> None:
    pool, batch = some(20), torch.rand(4000, 1, 2, 3)
    made = BackgroundNulls("mine", pool)(batch, torch.zeros(4000), seeded(3))
    assert made.null_probs is None
    assert made.images.dtype == torch.float32
    drawn = numbers(made.images)
    counts = [drawn.count(number) for number in range(20)]
    squares = sum((count - 200) ** 2 / 200 for count in counts)
    assert sum(counts) == 4000
    assert squares < 41, "chi-square with 19 degrees of freedom, 0.3 %"
    assert squares > 5, "nor dealt out evenly"
    same = [one == other for one, other in itertools.pairwise(drawn)]
    assert 130 < sum(same) < 270, "neighbours are the same image one time in twenty"


def test_the_batch_gives_only_their_number_and_type() -> None:
    source = BackgroundNulls("mine", some(20))
    made = source(torch.zeros(5, 1, 2, 3), torch.zeros(5), seeded(3))
    other = source(torch.ones(5, 1, 2, 3), torch.ones(5), seeded(3))
    assert torch.equal(made.images, other.images)
    double = source(torch.ones(5, 1, 2, 3, dtype=torch.float64), torch.ones(5), seeded(3))
    assert double.images.dtype == torch.float64
    assert not source.needs_image_gradient
    assert not source.is_soft


def test_data_are_loaded_by_name_once_and_only_when_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[tuple[str, dict[str, Any]]] = []

    def load(name: str, **options: Any) -> Dataset:
        loads.append((name, options))
        return Dataset("other", ("a",), some(20), None, some(3), "", "")

    monkeypatch.setattr("nullclass.nulls.background.load_dataset", load)
    source = make_nulls("background", {}, None)
    assert source.settings() == {"dataset": "fashion-mnist"}
    assert loads == []
    drawn: set[int] = set()
    generator = seeded(3)
    for _ in range(20):
        drawn |= set(numbers(source(torch.zeros(9, 1, 2, 3), torch.zeros(9), generator).images))
    assert drawn == set(range(20)), "the training images"
    assert loads == [("fashion-mnist", {"validation": 0})]
    make_nulls("background", {"dataset": "mnist"}, None)(
        torch.zeros(9, 1, 2, 3), torch.zeros(9), seeded(3)
    )
    assert loads[1:] == [("mnist", {"validation": 0})]


def test_images_of_ones_own_are_never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nullclass.nulls.background.load_dataset", lambda *_, **__: 1 / 0)
    source = BackgroundNulls("mine", some(4))
    settings = source.settings()
    assert settings["dataset"] == "mine"
    assert settings == BackgroundNulls("mine", some(4)).settings()
    assert settings != BackgroundNulls("mine", some(5)).settings(), "other images, another training"
    source(torch.zeros(2, 1, 2, 3), torch.zeros(2), seeded(3))


@pytest.mark.parametrize("shape", [(1, 3, 2), (3, 2, 3), (1, 2, 4)])
def test_images_of_another_shape_are_refused(shape: tuple[int, int, int]) -> None:
    source = BackgroundNulls("mine", some(4))
    with pytest.raises(UserError, match=r"background images of mine are \(1, 2, 3\).*same shape"):
        source(torch.zeros(2, *shape), torch.zeros(2), seeded(3))
