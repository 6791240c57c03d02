from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.core.norms import (
    BALLS,
    L1_SHARE,
    NORMS,
    check_eps,
    find_ball,
    find_norm,
    is_allowed,
    size_of,
    step_along,
    top_pixels,
)
from nullclass.results.null_curve import LARGEST_SIZE

NORM = pytest.mark.parametrize("norm", BALLS)
SEEDS = st.integers(0, 10_000)
PIXEL = st.floats(0, 1, width=32)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@NORM
@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, eps=st.floats(0, 3), scale=st.sampled_from([1e-12, 0.01, 1, 100]))
def test_the_projection_is_the_nearest_point(
    norm: str, seed: int, eps: float, scale: float
) -> None:
    # Of ball and box together; in L2 of the ball alone, so the box is kept away there.
    images = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(seed + 2))
    if norm == "l2":
        eps, scale, images = 0.1 * eps, min(scale, 1), 0.4 + 0.2 * images
    far = images + drawn(seed, 5, 1, 3, 3, scale=scale)
    nearest = BALLS[norm].project(far, images, eps)
    assert is_allowed(nearest, images, eps, norm).all()
    untouched = is_allowed(far, images, eps * (1 - 1e-5) - 1e-6, norm)
    torch.testing.assert_close(nearest[untouched], far[untouched], atol=1e-6, rtol=0)
    # No other point of the set is nearer in L2 (the variational inequality of a projection).
    for other in (drawn(seed + 1, 5, 1, 3, 3, scale=eps), drawn(seed + 3, 5, 1, 3, 3, scale=10)):
        elsewhere = BALLS[norm].project(images + other, images, eps)
        inner = ((far - nearest) * (elsewhere - nearest)).flatten(1).sum(1)
        assert (inner <= 1e-5 * max(1, scale)).all()


def exact_l1(far: list[float], image: list[float], eps: float) -> list[float]:
    """The nearest point of ball and box: soft threshold and clamp, with the exact threshold.

    The size left is a piecewise linear function of the threshold, with corners where a pixel leaves
    the edge of the box or reaches zero.
    """
    deltas = [f - i for f, i in zip(far, image, strict=True)]
    rooms = [1 - i if d > 0 else i for d, i in zip(deltas, image, strict=True)]

    def kept(threshold: float) -> list[float]:
        return [min(max(abs(d) - threshold, 0), r) for d, r in zip(deltas, rooms, strict=True)]

    threshold = 0.0
    if sum(kept(0)) > eps:
        corners = sorted(
            {0.0, *(max(abs(d), 0) for d in deltas)}
            | {max(abs(d) - r, 0) for d, r in zip(deltas, rooms, strict=True)}
        )
        for low, high in itertools.pairwise(corners):
            at_low, at_high = sum(kept(low)), sum(kept(high))
            if at_high <= eps <= at_low:
                share = (at_low - eps) / (at_low - at_high) if at_low > at_high else 0.0
                threshold = low + share * (high - low)
                break
    return [i + math.copysign(k, d) for i, k, d in zip(image, kept(threshold), deltas, strict=True)]


@settings(deadline=None, max_examples=200)
@given(
    pixels=st.lists(st.tuples(PIXEL, st.floats(-3, 3, width=32)), min_size=1, max_size=6),
    eps=st.floats(0, 4),
)
def test_the_l1_projection_is_exact(pixels: list[tuple[float, float]], eps: float) -> None:
    image, far = [p for p, _ in pixels], [p + d for p, d in pixels]
    as_image = torch.tensor(image, dtype=torch.float64).view(1, 1, 1, -1)
    as_far = torch.tensor(far, dtype=torch.float64).view(1, 1, 1, -1)
    projected = BALLS["l1"].project(as_far, as_image, eps).flatten().tolist()
    assert projected == pytest.approx(exact_l1(far, image, eps), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_the_l1_projection_against_an_optimiser(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, far, eps = rng.uniform(size=4), rng.normal(size=4) + 0.5, rng.uniform(0.1, 1.5)
    # Increases and decreases as separate variables, so that the ball is linear.
    solved = minimize(
        lambda moves: ((image + moves[:4] - moves[4:] - far) ** 2).sum(),
        np.full(8, 0.01),
        bounds=[(0, room) for room in np.concatenate([1 - image, image])],
        constraints=[{"type": "ineq", "fun": lambda moves: eps - moves.sum()}],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    brute = image + solved.x[:4] - solved.x[4:]
    as_image, as_far = (torch.tensor(values).view(1, 1, 2, 2) for values in (image, far))
    ours = BALLS["l1"].project(as_far, as_image, eps).flatten().numpy()
    np.testing.assert_allclose(ours, brute, atol=1e-5)


@pytest.mark.parametrize("eps", [0.5, 3.0, 40.0])
def test_the_l1_projection_against_the_authors(eps: float) -> None:
    theirs = pytest.importorskip("pyautoattack.autopgd_base")
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    delta = drawn(1, 20, 1, 8, 8, scale=0.5)
    projected = images + delta + theirs.L1_projection(images, delta, eps)
    ours = BALLS["l1"].project(images + delta, images, eps)
    torch.testing.assert_close(ours, projected, atol=2e-5, rtol=0)


@NORM
@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, scale=st.sampled_from([1e-30, 1e-12, 1, 1e6]))
def test_steepest_has_size_one_and_climbs_fastest(norm: str, seed: int, scale: float) -> None:
    gradient, inside = drawn(seed, 4, 1, 3, 3, scale=scale), torch.full((4, 1, 3, 3), 0.5)
    steepest = BALLS[norm].steepest(gradient, inside)
    torch.testing.assert_close(BALLS[norm].size(steepest), torch.ones(4))
    climb = (steepest.double() * gradient.double()).flatten(1).sum(1)
    dual = {"linf": 1, "l2": 2, "l1": math.inf}[norm]  # nine pixels: L1 moves the best one
    fastest = gradient.double().flatten(1).norm(p=dual, dim=1)
    torch.testing.assert_close(climb, fastest, rtol=1e-5, atol=0)  # Hölder's bound is reached


def test_l1_steps_move_the_best_pixels_that_can_move() -> None:
    gradient = torch.linspace(-1, -0.01, 100).reshape(1, 1, 10, 10)
    at = torch.full_like(gradient, 0.5)
    num_moved = round(L1_SHARE * 100)
    moved = BALLS["l1"].steepest(gradient, at)
    assert (moved != 0).sum() == num_moved
    assert torch.equal(moved.flatten()[:num_moved], torch.full((num_moved,), -1 / num_moved))
    at.view(-1)[:2] = 0  # the two best pixels cannot become darker
    held = BALLS["l1"].steepest(gradient, at)
    assert (held.flatten()[:2] == 0).all()
    assert (held != 0).sum() == num_moved
    at.view(-1)[:2] = 1  # at the other end of the box they can
    assert torch.equal(BALLS["l1"].steepest(gradient, at), moved)


@NORM
@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, scale=st.sampled_from([1e-30, 1e-12, 1, 1e6]))
def test_a_projected_step_climbs_unless_nothing_does(norm: str, seed: int, scale: float) -> None:
    # On a linear function, a small projected step never loses, and it gains unless the box blocks
    # the gradient.
    images = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    gradient = drawn(seed, 4, 1, 3, 3, scale=scale)
    gradient[0], images[1] = 0, (gradient[1] > 0).float()  # no gradient; blocked
    moved = BALLS[norm].project(images + 0.01 * BALLS[norm].step(gradient, images), images, 0.5)
    gain = ((moved - images).double() * gradient.double()).flatten(1).sum(1) / scale
    assert (gain[:2] == 0).all()
    assert (gain[2:] > 1e-4).all()


@NORM
def test_no_gradient_no_step(norm: str) -> None:
    nothing = torch.zeros(2, 1, 3, 3)
    assert torch.equal(BALLS[norm].steepest(nothing, nothing), nothing)
    assert torch.equal(BALLS[norm].step(nothing, nothing), nothing)


@NORM
def test_random_is_uniform_in_the_ball(norm: str) -> None:
    like, eps = torch.empty(20_000, 1, 1, 3), 0.4
    delta = BALLS[norm].random(like, eps, torch.Generator().manual_seed(0))
    sizes = BALLS[norm].size(delta).double()
    assert sizes.max() <= eps * (1 + 1e-6)
    # In three dimensions the share within radius r of a ball of radius eps is (r / eps)^3.
    for share in (0.3, 0.6, 0.9):
        within = (sizes <= share * eps).double().mean()
        assert float(within) == pytest.approx(share**3, abs=0.012)
    assert delta.mean(dim=0).abs().max() < 0.005, "centred"
    again = BALLS[norm].random(like, eps, torch.Generator().manual_seed(0))
    assert torch.equal(delta, again)


@NORM
@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, eps=st.floats(0, 1))
def test_projected_images_are_allowed(norm: str, seed: int, eps: float) -> None:
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    far = images + drawn(seed + 1, 6, 1, 4, 4)
    assert is_allowed(BALLS[norm].project(far, images, eps), images, eps, norm).all()


@pytest.mark.parametrize(
    ("norm", "budgets"), [("l2", (0.01, 0.5, 5.0, 100.0)), ("l1", (0.01, 5.0, 500.0, 50_000.0))]
)
def test_large_images_stay_allowed_in_float32(norm: str, budgets: tuple[float, ...]) -> None:
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for eps in budgets:
        far = images + drawn(1, 2, 3, 224, 224)
        assert is_allowed(BALLS[norm].project(far, images, eps), images, eps, norm).all()


@pytest.mark.parametrize(("norm", "budgets"), [("l2", (0.25, 0.5, 3.0)), ("l1", (1.0, 10.0))])
def test_flat_backgrounds_stay_in_the_ball(norm: str, budgets: tuple[float, ...]) -> None:
    """There all pixels round the same way, and a rounding up leaves the ball."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 1, 1, 1, generator=generator).expand(200, 3, 32, 32)
    others = torch.rand(200, 1, 1, 1, generator=generator).expand(200, 3, 32, 32)
    for eps in budgets:
        moved = BALLS[norm].project(others, images, eps)
        assert is_allowed(moved, images, eps, norm).all()
        size = size_of(moved.double(), images.double(), norm)
        whole = size_of(others.double(), images.double(), norm).clamp(max=eps)
        torch.testing.assert_close(size, whole, rtol=1e-4, atol=1e-4)


def test_sizes_of_large_images_are_those_of_float64() -> None:
    delta = drawn(0, 2, 3, 512, 512)
    torch.testing.assert_close(
        BALLS["l2"].size(delta).double(), delta.double().flatten(1).norm(dim=1), rtol=3e-7, atol=0
    )
    assert BALLS["l2"].size(delta.flatten(1)).shape == (2,)
    assert BALLS["l2"].size(delta[:0]).shape == (0,)


@NORM
def test_images_outside_the_budget_or_the_box_are_not_allowed(norm: str) -> None:
    images = torch.full((1, 1, 2, 2), 0.5)
    assert is_allowed(images, images, 0.0, norm).all()

    def moved(value: float) -> Tensor:
        adv_images = images.clone()
        adv_images[0, 0, 0, 0] = value
        return adv_images

    assert is_allowed(moved(0.6), images, 0.1, norm).all()
    assert not is_allowed(moved(0.6001), images, 0.1, norm).any()
    assert not is_allowed(moved(1.0001), images, 0.6, norm).any()
    assert not is_allowed(moved(-0.0001), images, 0.6, norm).any()
    assert not is_allowed(moved(math.nan), images, 1.0, norm).any()
    adv_images, budgets = moved(0.7).expand(3, -1, -1, -1), torch.tensor([0.1, 0.2, 0.3])
    allowed = is_allowed(adv_images, images.expand_as(adv_images), budgets, norm)
    assert allowed.tolist() == [False, True, True], "each has its own budget"


@pytest.mark.parametrize("eps", [0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5), 1])
def test_one_budget_becomes_a_float(eps: object) -> None:
    checked = check_eps(eps, "linf", torch.Size((3, 1, 2, 2)))
    assert type(checked) is float
    assert checked == float(eps)  # type: ignore[arg-type]


def test_budgets_per_image_stay_a_tensor() -> None:
    shape = torch.Size((2, 1, 2, 2))
    budgets = torch.tensor([0.0, 1.0])
    assert check_eps(budgets, "linf", shape) is budgets
    assert torch.equal(check_eps(torch.tensor([0, 1]), "linf", shape), budgets)


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        ("0.1", "must be a number or a tensor of shape .N,., not '0.1' of type str"),
        (None, "must be a number.*not None"),
        (True, "must be a number.*not True of type bool"),
        (torch.tensor(True), "must be a number.*not True of type bool"),
        (torch.tensor([True, True]), "must be a number.*of type Tensor"),
        ([0.1, 0.1], "must be a number.*of type list"),
        (0.1j, "must be a number.*of type complex"),
        (math.nan, "eps nan is outside"),
        (-0.1, "eps -0.1 is outside"),
        (math.inf, "eps inf is outside"),
        (torch.tensor([0.1, math.nan]), "eps nan is outside"),
        (torch.tensor([0.1]), r"eps has shape \(1,\) for 2 images: give one number, or"),
        (torch.zeros(2, 1), r"eps has shape \(2, 1\) for 2 images"),
        (8, "divide by 255"),
    ],
)
def test_bad_budgets(eps: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_eps(eps, "linf", torch.Size((2, 1, 2, 2)))


def test_the_largest_budget_is_the_size_of_the_box() -> None:
    shape = torch.Size((5, 1, 28, 28))
    check_eps(1.0, "linf", shape)
    check_eps(28.0, "l2", shape)
    check_eps(784.0, "l1", shape)
    for norm, largest in (("linf", 1.0), ("l2", 28.0), ("l1", 784.0)):
        with pytest.raises(UserError, match=f"outside .0, {largest:g}.*pixel units"):
            check_eps(1.001 * largest, norm, shape)
        whole_box = BALLS[norm].size(torch.ones(shape))
        torch.testing.assert_close(whole_box, torch.full((5,), largest))


@NORM
@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_budgets_per_image(norm: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(6, 1, 3, 3, generator=generator)
    budgets = torch.rand(6, generator=generator)
    budgets[2] = 0
    delta = drawn(seed + 1, 6, 1, 3, 3)
    steepest = BALLS[norm].steepest(delta, images)
    moved = step_along(steepest, images, budgets, norm)
    projected = BALLS[norm].project(images + delta, images, budgets)
    random = BALLS[norm].random(images, budgets, torch.Generator().manual_seed(seed))
    assert (BALLS[norm].size(random) <= budgets * (1 + 1e-5)).all()
    assert is_allowed(projected, images, budgets, norm).all()
    assert is_allowed(moved, images, budgets, norm).all()
    for index, eps in enumerate(budgets.tolist()):
        one = slice(index, index + 1)
        same = {"atol": 1e-6, "rtol": 1e-6}
        torch.testing.assert_close(
            moved[one], step_along(steepest[one], images[one], eps, norm), **same
        )
        alone = BALLS[norm].project(images[one] + delta[one], images[one], eps)
        torch.testing.assert_close(projected[one], alone, **same)


def plain_size(delta: Tensor, norm: str) -> float:
    """The size of one perturbation (C, H, W), pixel by pixel."""
    values = [float(value) for value in delta.flatten()]
    if norm == "linf":
        return max(abs(value) for value in values)
    if norm == "l2":
        return math.sqrt(sum(value**2 for value in values))
    if norm == "l1":
        return sum(abs(value) for value in values)
    channels, height, width = delta.shape
    changed = [
        any(float(delta[c, h, w]) != 0 for c in range(channels))
        for h in range(height)
        for w in range(width)
    ]
    return sum(changed) / (height * width)


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 10_000), channels=st.integers(1, 3), density=st.floats(0, 1))
def test_size_against_a_loop_over_pixels(
    norm: str, seed: int, channels: int, density: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(3, channels, 2, 4, generator=generator)
    other = torch.rand(clean.shape, generator=generator)
    perturbed = torch.where(torch.rand(clean.shape, generator=generator) < density, other, clean)
    sizes = size_of(perturbed, clean, norm)
    expected = [plain_size(delta, norm) for delta in perturbed - clean]
    assert sizes.shape == (3,)
    torch.testing.assert_close(sizes, torch.tensor(expected))
    assert (sizes <= NORMS[norm].largest(clean[0].numel())).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_largest_size_is_that_from_black_to_white(norm: str) -> None:
    black = torch.zeros(1, 3, 4, 5)
    assert size_of(black + 1, black, norm).item() == pytest.approx(find_norm(norm).largest(60))
    assert size_of(black, black, norm).item() == 0


def test_the_names_without_torch_are_the_same() -> None:
    assert LARGEST_SIZE.keys() == NORMS.keys()
    for norm, largest in LARGEST_SIZE.items():
        assert find_norm(norm).largest(30_000) <= largest


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(UserError, match="norm must be one of linf, l2, l1, l0, not 'l3'"):
        find_norm("l3")
    with pytest.raises(UserError, match="norm must be one of linf, l2, l1, not 'l0'"):
        find_ball("l0")


@given(
    scores=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=6, max_size=6),
    share=st.floats(0, 1),
)
def test_top_pixels_takes_the_largest_first_come_first(scores: list[float], share: float) -> None:
    marked = top_pixels(torch.tensor(scores).view(1, 2, 3), torch.tensor([share]))
    ranked = sorted(range(6), key=lambda pixel: (-scores[pixel], pixel))
    expected = set(ranked[: math.floor(float(torch.tensor(share)) * 6 + 1e-5)])
    assert marked.shape == (1, 1, 2, 3)
    assert {i for i, is_marked in enumerate(marked.flatten().tolist()) if is_marked} == expected


@pytest.mark.parametrize("side", [3, 7, 28, 32, 64])
def test_every_count_of_pixels_survives_float32(side: int) -> None:
    counts = torch.arange(side**2 + 1)[:: max(1, side**2 // 100)]
    marked = top_pixels(torch.zeros(len(counts), side, side), (counts / side**2).float())
    assert marked.flatten(1).sum(dim=1).tolist() == counts.tolist()
