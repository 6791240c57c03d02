from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nullclass.attacks.geometry import NORMS, along, check_eps, is_allowed, project

NORM = pytest.mark.parametrize("norm", NORMS)
SEEDS = st.integers(0, 10_000)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@NORM
@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, eps=st.floats(0, 3), scale=st.sampled_from([1e-12, 0.01, 1, 100]))
def test_shrink_is_the_nearest_point_of_the_ball(
    norm: str, seed: int, eps: float, scale: float
) -> None:
    delta = drawn(seed, 5, 1, 3, 3, scale=scale)
    shrunk = NORMS[norm].shrink(delta, eps)
    assert (NORMS[norm].size(shrunk) <= eps * (1 + 1e-5) + 1e-12).all()
    inside = NORMS[norm].size(delta) <= eps * (1 - 1e-5)
    torch.testing.assert_close(shrunk[inside], delta[inside])
    # Nearest in L2: no other point of the ball is closer (variational inequality).
    other = NORMS[norm].shrink(drawn(seed + 1, 5, 1, 3, 3, scale=eps), eps)
    inner = ((delta - shrunk) * (other - shrunk)).flatten(1).sum(1)
    assert (inner <= 1e-4 * max(1, scale * eps)).all()


@NORM
@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, scale=st.sampled_from([1e-30, 1e-12, 1, 1e6]))
def test_steepest_has_size_one_and_climbs_fastest(norm: str, seed: int, scale: float) -> None:
    gradient = drawn(seed, 4, 1, 3, 3, scale=scale)
    steepest = NORMS[norm].steepest(gradient)
    torch.testing.assert_close(NORMS[norm].size(steepest), torch.ones(4))
    climb = (steepest.double() * gradient.double()).flatten(1).sum(1)
    dual = gradient.double().flatten(1).norm(p=1 if norm == "linf" else 2, dim=1)
    torch.testing.assert_close(climb, dual, rtol=1e-5, atol=0)  # Hölder's bound is reached


@NORM
def test_no_gradient_no_step(norm: str) -> None:
    assert torch.equal(NORMS[norm].steepest(torch.zeros(2, 1, 3, 3)), torch.zeros(2, 1, 3, 3))


@NORM
def test_random_is_uniform_in_the_ball(norm: str) -> None:
    like, eps = torch.empty(20_000, 1, 1, 3), 0.4
    delta = NORMS[norm].random(like, eps, torch.Generator().manual_seed(0))
    sizes = NORMS[norm].size(delta).double()
    assert sizes.max() <= eps * (1 + 1e-6)
    # In three dimensions the share within radius r of a ball of radius eps is (r / eps)^3.
    for share in (0.3, 0.6, 0.9):
        within = (sizes <= share * eps).double().mean()
        assert float(within) == pytest.approx(share**3, abs=0.012)
    assert delta.mean(dim=0).abs().max() < 0.005, "centred"
    again = NORMS[norm].random(like, eps, torch.Generator().manual_seed(0))
    assert torch.equal(delta, again)


@NORM
@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, eps=st.floats(0, 1))
def test_what_is_projected_is_allowed(norm: str, seed: int, eps: float) -> None:
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    far = images + drawn(seed + 1, 6, 1, 4, 4)
    assert is_allowed(project(far, images, eps, NORMS[norm]), images, eps, norm).all()


def test_large_images_stay_allowed_in_float32() -> None:
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for eps in (0.01, 0.5, 5.0, 100.0):
        far = images + drawn(1, 2, 3, 224, 224)
        assert is_allowed(project(far, images, eps, NORMS["l2"]), images, eps, "l2").all()


@NORM
def test_what_breaks_the_budget_or_the_box_is_not_allowed(norm: str) -> None:
    images = torch.full((1, 1, 2, 2), 0.5)
    assert is_allowed(images, images, 0.0, norm).all()

    def moved(value: float) -> Tensor:
        attacked = images.clone()
        attacked[0, 0, 0, 0] = value
        return attacked

    assert is_allowed(moved(0.6), images, 0.1, norm).all()
    assert not is_allowed(moved(0.6001), images, 0.1, norm).any()
    assert not is_allowed(moved(1.0001), images, 0.6, norm).any()
    assert not is_allowed(moved(-0.0001), images, 0.6, norm).any()
    assert not is_allowed(moved(math.nan), images, 1.0, norm).any()


def test_the_largest_budget_is_the_size_of_the_box() -> None:
    shape = torch.Size((5, 1, 28, 28))
    check_eps(1.0, "linf", shape)
    check_eps(28.0, "l2", shape)


@NORM
@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_a_budget_for_each_image_is_that_image_alone(norm: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(6, 1, 3, 3, generator=generator)
    budgets = torch.rand(6, generator=generator)
    budgets[2] = 0
    delta = drawn(seed + 1, 6, 1, 3, 3)
    shrunk = NORMS[norm].shrink(delta, budgets)
    steepest = NORMS[norm].steepest(delta)
    moved = along(steepest, images, budgets, norm)
    projected = project(images + delta, images, budgets, NORMS[norm])
    random = NORMS[norm].random(images, budgets, torch.Generator().manual_seed(seed))
    assert (NORMS[norm].size(random) <= budgets * (1 + 1e-5)).all()
    assert is_allowed(projected, images, budgets, norm).all()
    assert is_allowed(moved, images, budgets, norm).all()
    for index, eps in enumerate(budgets.tolist()):
        one = slice(index, index + 1)
        same = {"atol": 1e-6, "rtol": 1e-6}
        torch.testing.assert_close(shrunk[one], NORMS[norm].shrink(delta[one], eps), **same)
        torch.testing.assert_close(moved[one], along(steepest[one], images[one], eps, norm), **same)
        alone = project(images[one] + delta[one], images[one], eps, NORMS[norm])
        torch.testing.assert_close(projected[one], alone, **same)


@NORM
def test_only_the_image_that_breaks_its_own_budget_is_not_allowed(norm: str) -> None:
    images = torch.full((3, 1, 2, 2), 0.5)
    attacked = images.clone()
    attacked[:, 0, 0, 0] += 0.2
    budgets = torch.tensor([0.1, 0.2, 0.3])
    assert is_allowed(attacked, images, budgets, norm).tolist() == [False, True, True]
