"""Images perturbed by a random size, with the probability of null that the curve gives."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import noise_images, seeded, small_network

from nullclass.core.losses import cross_entropy
from nullclass.nulls import NullProbabilities, make_nulls
from nullclass.nulls.perturb import PERTURBATIONS, Perturbation, make_perturbation
from nullclass.results.null_curve import NullCurve

PAIRS = [(name, norm) for name, cls in PERTURBATIONS.items() for norm in cls.norms]

SIZE = 6
SHAPE = (2, SIZE, SIZE)
small_model = partial(small_network, shape=SHAPE)


def curve_in(norm: str, perturbation: str = "") -> NullCurve:
    """Bent, so that a share tells the size."""
    points = (0.1, 0.25, 0.5), (0.2, 0.7, 1.0)
    return NullCurve(norm, *points, perturbation=perturbation)


def batch(num: int = 40) -> tuple[Tensor, Tensor]:
    return noise_images(num, SHAPE)


def size_by_hand(delta: np.ndarray, norm: str) -> float:
    """Of one perturbation ``(C, H, W)``, by the definitions."""
    if norm == "linf":
        return max(abs(float(value)) for value in delta.flatten())
    if norm == "l2":
        return float(sum(float(value) ** 2 for value in delta.flatten()) ** 0.5)
    changed = sum(any(delta[:, h, w] != 0) for h in range(SIZE) for w in range(SIZE))
    return changed / SIZE**2


def probability_by_hand(size: float, curve: NullCurve) -> float:
    """Straight lines from 0 through the points, and level after the last."""
    before, value = 0.0, 0.0
    for point, probability in zip(curve.sizes, curve.probabilities, strict=True):
        if size <= point:
            return value + (probability - value) * (size - before) / (point - before)
        before, value = point, probability
    return value


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_the_share_of_null_is_the_curve_at_the_size_that_came_out(name: str, norm: str) -> None:
    curve = curve_in(norm)
    source = NullProbabilities(small_model(), curve, name)
    images, labels = batch()
    made = source(images, labels, seeded(7))
    assert made.null_probs is not None
    null_probs = made.null_probs.tolist()
    deltas = (made.images - images).numpy()
    final_sizes = [size_by_hand(delta, norm) for delta in deltas]
    assert null_probs == pytest.approx(
        [probability_by_hand(size, curve) for size in final_sizes], abs=1e-5
    )
    assert max(final_sizes) <= curve.largest * (1 + 1e-6)
    assert len({round(p, 4) for p in null_probs}) > 8, "sizes of their own"
    assert source.needs_image_gradient is PERTURBATIONS[name].needs_gradient
    assert source.is_soft


class Brighter(Perturbation):
    """Moves every pixel by exactly the size, and keeps the sizes."""

    norms = ("linf",)
    needs_gradient = False

    def __init__(self) -> None:
        self.sizes: list[Tensor] = []

    def perturb(self, images: Tensor, sizes: Tensor, *_: Any) -> Tensor:
        self.sizes.append(sizes)
        return images + sizes[:, None, None, None]


@pytest.mark.parametrize(
    ("probabilities", "largest"), [((0.2, 0.7, 1.0), 0.5), ((0.2, 1.0, 1.0), 0.25)]
)
def test_sizes_are_uniform_up_to_where_all_is_null(
    probabilities: tuple[float, ...], largest: float
) -> None:
    num = 4000
    brighter = Brighter()
    curve = NullCurve("linf", (0.1, 0.25, 0.5), probabilities)
    source = NullProbabilities(small_model(), curve, brighter)
    images, labels = torch.zeros(num, 1, 1, 2), torch.zeros(num, dtype=torch.int64)
    made = source(images, labels, seeded(7))
    (sizes,) = brighter.sizes
    assert sizes.min() > 0
    assert sizes.max() <= largest
    expected = largest * (torch.arange(num) + 0.5) / num
    gap = (sizes.sort().values - expected).abs().max() / largest
    assert gap < 1.95 / num**0.5, "Kolmogorov's bound at 0.1 %"
    neighbours = torch.corrcoef(torch.stack([sizes[:-1], sizes[1:]]))[0, 1]
    assert abs(float(neighbours)) < 4 / num**0.5, "one image's size says nothing of the next's"
    null_probs = source.curve(sizes.double().numpy())
    assert made.null_probs is not None
    assert made.null_probs.tolist() == null_probs.astype(np.float32).tolist(), "exactly"


@pytest.mark.parametrize("num_most", [1, 5, 36])
def test_counts_of_pixels_are_uniform_from_one_to_the_most(num_most: int) -> None:
    """Of 1 ... N_max: never none, and as often all of them as any other number."""
    num = 3600
    curve = NullCurve("l0", (num_most / SIZE**2,), (1.0,))
    source = NullProbabilities(small_model(), curve, "noise")
    images, labels = torch.full((num, 2, SIZE, SIZE), 0.5), torch.zeros(num, dtype=torch.int64)
    made = source(images, labels, seeded(7))
    counts = (made.images != images).any(dim=1).flatten(1).sum(dim=1).tolist()
    expected = num / num_most
    assert min(counts) == 1
    assert max(counts) == num_most
    squares = sum((counts.count(k) - expected) ** 2 / expected for k in range(1, num_most + 1))
    limit = {1: 1e-9, 5: 16.0, 36: 63.0}[num_most]
    assert squares < limit, "chi-square, 0.3 %"
    assert made.null_probs is not None
    assert made.null_probs.tolist() == pytest.approx([count / num_most for count in counts])


def test_the_box_makes_a_size_smaller_and_so_the_share() -> None:
    """All pixels at an end, and the gradient beyond it: nothing moves, and nothing is null."""
    model = small_model()
    images = torch.ones(6, 2, SIZE, SIZE)
    images.grad = torch.ones_like(images)
    made = NullProbabilities(model, curve_in("linf"), "fgsm")(
        images, torch.zeros(6, dtype=torch.int64), seeded(7)
    )
    assert torch.equal(made.images, images)
    assert made.null_probs is not None
    assert made.null_probs.tolist() == [0.0] * 6


def test_the_gradient_at_hand_is_used_and_is_the_one_it_would_have_made() -> None:
    model, (images, labels) = small_model(), batch()
    calls: list[int] = []
    model.body.register_forward_hook(lambda *_: calls.append(1))
    source = NullProbabilities(model, curve_in("linf"), "fgsm")
    bare = source(images, labels, seeded(7))
    assert calls == [1]
    images.requires_grad_()
    cross_entropy(model(images), labels).backward()
    calls.clear()
    given = source(images, labels, seeded(7))
    assert calls == [], "no second pass"
    assert torch.equal(given.images, bare.images)
    # Another gradient, another image: it is not just that none was needed.
    images.grad = -images.grad
    opposite = source(images, labels, seeded(7))
    inside = ((bare.images > 0) & (bare.images < 1)) & (
        (opposite.images > 0) & (opposite.images < 1)
    )
    middle = ((bare.images + opposite.images) / 2)[inside]
    torch.testing.assert_close(middle, images.detach()[inside])
    assert inside.float().mean() > 0.3


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_where_gradients_are_off_the_images_are_the_same(name: str, norm: str) -> None:
    """As selections call it."""
    source = NullProbabilities(small_model().train(), curve_in(norm), name)
    images, labels = batch(8)
    made = source(images, labels, seeded(7))
    with torch.no_grad():
        again = source(images, labels, seeded(7))
    assert torch.equal(made.images, again.images)
    assert not made.images.requires_grad
    assert source.model.training
    assert all(parameter.grad is None for parameter in source.model.parameters())


def test_the_curve_comes_as_itself_or_as_json_and_brings_its_maker() -> None:
    curve = curve_in("l2", perturbation="pgd")
    images, labels = batch(8)
    of_itself = NullProbabilities(small_model(), curve)
    of_json = make_nulls("null-probabilities", {"curve": curve.to_dict()}, small_model())
    assert of_itself.settings() == of_json.settings()
    assert of_itself.settings() == {
        "curve": curve.to_dict(),
        "perturbation": "pgd",
        "perturbation_settings": {"num_steps": 10},
    }
    one, other = (source(images, labels, seeded(7)) for source in (of_itself, of_json))
    assert torch.equal(one.images, other.images)
    another = NullProbabilities(small_model(), curve, "noise")
    assert another.settings()["perturbation"] == "noise", "unless another is given"
    assert another.perturbation == make_perturbation("noise")
