"""Sizes against plain loops over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.nulls.perturb import MEASURES, find_measure, size_of
from nullclass.nulls.perturb.measures import foremost
from nullclass.results.null_curve import LARGEST_SIZE


def told(delta: Tensor, measure: str) -> float:
    """The size of one perturbation (C, H, W), pixel by pixel."""
    values = [float(value) for value in delta.flatten()]
    if measure == "linf":
        return max(abs(value) for value in values)
    if measure == "l2":
        return math.sqrt(sum(value**2 for value in values))
    channels, height, width = delta.shape
    changed = [
        any(float(delta[c, h, w]) != 0 for c in range(channels))
        for h in range(height)
        for w in range(width)
    ]
    return sum(changed) / (height * width)


@pytest.mark.parametrize("measure", MEASURES)
@given(seed=st.integers(0, 10_000), channels=st.integers(1, 3), density=st.floats(0, 1))
def test_size_is_what_a_loop_over_pixels_says(
    measure: str, seed: int, channels: int, density: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(3, channels, 2, 4, generator=generator)
    other = torch.rand(clean.shape, generator=generator)
    perturbed = torch.where(torch.rand(clean.shape, generator=generator) < density, other, clean)
    sizes = size_of(perturbed, clean, measure)
    expected = [told(delta, measure) for delta in perturbed - clean]
    assert sizes.shape == (3,)
    torch.testing.assert_close(sizes, torch.tensor(expected))
    assert (sizes <= MEASURES[measure].largest(tuple(clean.shape[1:]))).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_the_largest_size_is_that_from_black_to_white(measure: str) -> None:
    black = torch.zeros(1, 3, 4, 5)
    assert size_of(black + 1, black, measure).item() == pytest.approx(
        find_measure(measure).largest((3, 4, 5))
    )
    assert size_of(black, black, measure).item() == 0


def test_the_names_without_torch_are_the_same() -> None:
    assert LARGEST_SIZE.keys() == MEASURES.keys()
    for measure, largest in LARGEST_SIZE.items():
        assert find_measure(measure).largest((3, 100, 100)) <= largest


def test_an_unknown_measure_is_told() -> None:
    with pytest.raises(UserError, match=r"no measure 'l1': choose one of linf, l2, l0"):
        find_measure("l1")


@given(
    scores=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=6, max_size=6),
    share=st.floats(0, 1),
)
def test_foremost_takes_the_largest_first_come_first(scores: list[float], share: float) -> None:
    marked = foremost(torch.tensor(scores).view(1, 2, 3), torch.tensor([share]))
    ranked = sorted(range(6), key=lambda pixel: (-scores[pixel], pixel))
    expected = set(ranked[: math.floor(float(torch.tensor(share)) * 6 + 1e-5)])
    assert marked.shape == (1, 1, 2, 3)
    assert {i for i, is_marked in enumerate(marked.flatten().tolist()) if is_marked} == expected


@pytest.mark.parametrize("side", [3, 7, 28, 32, 64])
def test_every_count_of_pixels_survives_float32(side: int) -> None:
    counts = torch.arange(side**2 + 1)[:: max(1, side**2 // 100)]
    marked = foremost(torch.zeros(len(counts), side, side), (counts / side**2).float())
    assert marked.flatten(1).sum(dim=1).tolist() == counts.tolist()
