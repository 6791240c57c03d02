"""Square Attack: its steps, exact optima, and the published code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import Affine, Digits, fooled, outcome_of, seeded, two_input_world

from nullclass.attacks import PGD, Square
from nullclass.attacks.counters import count_passes
from nullclass.attacks.square import PROPOSALS, share_at, two_bumps
from nullclass.core.norms import is_allowed
from nullclass.models import Classifier

NORMS = ["linf", "l2"]


@pytest.mark.parametrize("seed", range(5))
def test_a_linear_model_falls_at_its_exact_optimum(seed: int) -> None:
    # Two classes, no null: pixel by pixel the search climbs to the best corner, and that fools
    # if and only if eps exceeds gap / |w_1 - w_0|_1.
    weight = torch.randn(2, 16, generator=seeded(seed))
    image, gap = torch.full((1, 1, 4, 4), 0.5), 1.0
    bias = -weight @ image.flatten() + torch.tensor([gap, 0.0])
    model, label = Classifier(Affine(weight, bias), 2, has_null=False), torch.tensor([0])
    optimum = gap / float((weight[1] - weight[0]).abs().sum())
    for share, may_fool in ((0.999, False), (1.001, True)):
        adv_images = Square(num_queries=500)(
            model, image, label, eps=share * optimum, generator=seeded()
        )
        assert (outcome_of(model, adv_images, label) == ["fooled"]) is may_fool


def test_no_gradient_is_missed() -> None:
    # Coarse steps in the input: every gradient is exactly zero, and logits still show the way.
    class Coarse(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, images: Tensor) -> Tensor:
            return self.body((images * 64).round() / 64)

    world, image, label = two_input_world(a=0.1, b=0.1)
    model = Classifier(Coarse(world), 2)
    assert outcome_of(model, PGD()(model, image, label, eps=0.15), label) == ["correct"]
    adv_images = Square(num_queries=100)(model, image, label, eps=0.15, generator=seeded())
    assert outcome_of(model, adv_images, label) == ["fooled"]


def test_successful_images_are_evaluated_once(digits: Digits) -> None:
    model, images = digits.guarded, digits.images[:60]
    wrong = (digits.labels[:60] + torch.arange(60) % 2) % 10  # every other answer, that is
    is_fooled = fooled(model, images, wrong)
    assert 20 < is_fooled.sum() < 40
    with count_passes(model) as passes:
        adv_images = Square(num_queries=7)(model, images, wrong, eps=0.0001, generator=seeded())
    assert torch.equal(adv_images[is_fooled], images[is_fooled])
    assert passes.forward == 60 + 7 * int((~is_fooled).sum())
    with count_passes(model) as passes:
        Square(num_queries=7)(model, images, wrong, eps=0.0, generator=seeded())
    assert passes.forward == 60, "a ball of one point is not searched"


def test_restarts_only_add(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:100], digits.labels[:100]
    once, thrice = (
        fooled(
            model,
            Square(num_queries=60, num_restarts=num_restarts)(
                model, images, labels, eps=0.1, generator=seeded()
            ),
            labels,
        )
        for num_restarts in (1, 3)
    )
    assert (thrice | ~once).all()
    assert thrice.sum() > once.sum()


def steps(largest_eps: float, smallest_side: int) -> dict[str, Any]:
    sides = st.integers(smallest_side, 9)
    return {
        "share": st.floats(0.001, 1.0),
        "eps": st.floats(0.01, largest_eps),
        "shape": st.tuples(st.integers(1, 3), sides, sides),
        "seed": st.integers(0, 1000),
    }


@settings(max_examples=60)
@given(**steps(0.6, 1))
def test_a_linf_step_sets_one_square_to_the_edge_of_the_ball(
    share: float, eps: float, shape: tuple[int, int, int], seed: int
) -> None:
    generator = seeded(seed)
    clean = torch.rand(5, *shape, generator=generator)
    start = PROPOSALS["linf"].start(clean, eps, generator)
    tried = PROPOSALS["linf"].step(start.clone(), clean, eps, share, generator)
    side = min(max(1, round(math.sqrt(share * shape[1] * shape[2]))), shape[1], shape[2])
    above, below = ((clean + sign * eps).clamp(0, 1) for sign in (1, -1))
    for n in range(5):
        # Stripes: a column of a channel goes one way.
        for channel, column in ((c, w) for c in range(shape[0]) for w in range(shape[2])):
            stripe = start[n, channel, :, column]
            assert any(torch.equal(stripe, b[n, channel, :, column]) for b in (above, below))
        changed = (tried[n] != start[n]).any(dim=0).nonzero()
        assert len(changed), "a query that changes nothing is wasted"
        low, high = changed.amin(dim=0), changed.amax(dim=0)
        assert (high - low < side).all()
        assert any(
            all(
                torch.equal(part[c], above[n, c][window])
                or torch.equal(part[c], below[n, c][window])
                for c in range(shape[0])
            )
            for window in windows_around(low, high, side, shape)
            for part in [tried[n][:, window[0], window[1]]]
        )


def windows_around(
    low: Tensor, high: Tensor, side: int, shape: tuple[int, int, int]
) -> list[tuple[slice, slice]]:
    """Every square of that side, within the image, that holds the pixels low … high."""
    return [
        (slice(top, top + side), slice(left, left + side))
        for top in range(max(0, int(high[0]) - side + 1), int(low[0]) + 1)
        for left in range(max(0, int(high[1]) - side + 1), int(low[1]) + 1)
        if top + side <= shape[1] and left + side <= shape[2]
    ]


@settings(max_examples=60)
@given(**steps(0.3, 3))
def test_an_l2_step_moves_what_two_squares_held_and_spends_the_whole_budget(
    share: float, eps: float, shape: tuple[int, int, int], seed: int
) -> None:
    # From 3 x 3 on; on a single pixel the old and the new perturbation may cancel.
    generator = seeded(seed)
    clean = 0.4 + 0.2 * torch.rand(5, *shape, generator=generator, dtype=torch.float64)  # no box
    start = PROPOSALS["l2"].start(clean, eps, generator)
    tried = PROPOSALS["l2"].step(start.clone(), clean, eps, share, generator)
    for adv_images in (start, tried):
        size = (adv_images - clean).flatten(1).norm(dim=1)
        torch.testing.assert_close(size, torch.full_like(size, eps), atol=1e-9, rtol=0)
    side = max(3, round(math.sqrt(share * shape[1] * shape[2])))
    side = min(side + (side % 2 == 0), shape[1], shape[2])
    is_changed = ((tried - start).abs() > 1e-9).any(dim=1).flatten(1)
    assert is_changed.any(dim=1).all()
    assert (is_changed.sum(dim=1) <= 2 * side**2).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_smallest_images_are_no_trouble(norm: str) -> None:
    generator = seeded()
    for shape in ((1, 1, 1), (2, 1, 1), (1, 1, 3), (3, 2, 1)):
        clean = torch.rand(50, *shape, generator=generator)
        tried = PROPOSALS[norm].start(clean, 0.2, generator)
        for share in (0.8, 0.1, 0.001):
            tried = PROPOSALS[norm].step(tried, clean, 0.2, share, generator)
            assert is_allowed(tried, clean, 0.2, norm).all()


def test_squares_lie_everywhere_and_each_image_has_its_own() -> None:
    num_images, generator = 20_000, seeded()
    clean = torch.full((num_images, 1, 4, 5), 0.5)
    start = PROPOSALS["linf"].start(clean, 0.1, generator)
    tried = PROPOSALS["linf"].step(start.clone(), clean, 0.1, 4 / 20, generator)
    share = (tried != start).squeeze(1).double().mean(dim=0)
    # Squares of side 2 have 3 x 4 places, all equally likely. What one covers changes with chance
    # 3/4: if its stripe has the other sign (1/2), or both stripes have the sign drawn (1/4).
    num_places = torch.tensor(
        [[min(r + 1, 2, 4 - r) * min(c + 1, 2, 5 - c) for c in range(5)] for r in range(4)]
    )
    expected = 0.75 * num_places.double() / 12
    deviation = (share - expected) / (expected * (1 - expected) / num_images).sqrt()
    assert deviation.abs().max() < 4, deviation


@pytest.mark.parametrize("num_queries", [1, 7, 300, 5000, 10000])
def test_the_schedule_is_the_published_one(num_queries: int) -> None:
    theirs = pytest.importorskip("pyautoattack.square").SquareAttack(
        None, n_queries=num_queries, p_init=0.8
    )
    for query in range(num_queries):
        assert share_at(query, num_queries, 0.8) == theirs.p_selection(query), query


def test_the_bumps_are_the_published_ones() -> None:
    attack = pytest.importorskip("pyautoattack.square").SquareAttack(None, norm="L2", device="cpu")
    for side in (2, 3, 4, 5, 9, 11):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            theirs = attack.eta(side)
        ours = two_bumps(side).float()
        is_same = [torch.allclose(theirs, way, atol=1e-6) for way in (ours, ours.T)]
        assert any(is_same), side


def their_square(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float, norm: str, num_queries: int
) -> Tensor:
    module = pytest.importorskip("pyautoattack.square")
    attack = module.SquareAttack(
        model, norm={"linf": "Linf", "l2": "L2"}[norm], n_queries=num_queries, eps=eps, device="cpu"
    )
    attack.init_hyperparam(images)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        _, adv_images = attack.attack_single_run(images.clone(), labels)
    return adv_images


@pytest.mark.parametrize(
    ("norm", "eps"), [("linf", 0.06), ("linf", 0.12), ("l2", 0.4), ("l2", 0.8)]
)
def test_it_is_no_weaker_than_pyautoattack(digits: Digits, norm: str, eps: float) -> None:
    model = digits.plain
    is_right = model.predict(digits.images) == digits.labels
    images, labels = digits.images[is_right][:128], digits.labels[is_right][:128]
    for num_queries in (50, 300):
        theirs = their_square(model, images, labels, eps, norm, num_queries)
        ours = Square(num_queries=num_queries)(
            model, images, labels, eps=eps, norm=norm, generator=seeded()
        )
        assert is_allowed(ours, images, eps, norm).all()
        found, they_found = (int(fooled(model, x, labels).sum()) for x in (ours, theirs))
        assert found >= they_found, (num_queries, found, they_found)
        assert 0 < they_found < 128, "a budget that decides something"


def test_stock_square_stops_at_null_and_ours_does_not(digits: Digits) -> None:
    model, images, labels = digits.guarded, digits.images[:128], digits.labels[:128]
    stock = fooled(model, their_square(model, images, labels, 0.15, "linf", 300), labels)
    adv_images = Square(num_queries=300)(model, images, labels, eps=0.15, generator=seeded())
    assert fooled(model, adv_images, labels).double().mean() > stock.double().mean() + 0.2
