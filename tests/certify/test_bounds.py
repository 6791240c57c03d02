"""Bounds against searches of the ball, exact values, and planted mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from soundness import LAYERS, random_images, random_spec, read, small_model, worst_gap
from torch import Tensor, nn

from nullclass.certify import VERIFIERS, Box, Network, crown, crown_ibp_bounds, interval_bounds
from nullclass.certify.layers import Layer, Linear, Monotone
from nullclass.certify.regions import Ellipsoid
from nullclass.certify.rounding import NO_ROUNDING, Rounding, rounding_of
from nullclass.models import Classifier

NORMS = ("linf", "l2")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_no_point_of_the_ball_is_below_the_bound(norm: str, layer: str) -> None:
    model, network = read(small_model(LAYERS[layer](), seed=0))
    images, spec = random_images(4, 0), random_spec(4, 0)
    for verifier in VERIFIERS.values():
        for radius in (0.0, 0.03, 0.4):
            gap = worst_gap(verifier, network, model, images, radius, norm, spec)
            assert gap >= 0
            if radius == 0:
                assert gap < 1e-3, "the bound is far from the value it bounds"


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    layer=st.sampled_from(list(LAYERS)),
    norm=st.sampled_from(NORMS),
    radius=st.floats(0, 1),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_bounds_hold_on_any_small_network(
    seed: int, layer: str, norm: str, radius: float, scale: float
) -> None:
    model, network = read(small_model(LAYERS[layer](), seed, scale=scale))
    images, spec = random_images(3, seed), random_spec(3, seed)
    for verifier in VERIFIERS.values():
        assert worst_gap(verifier, network, model, images, radius, norm, spec, seed) >= 0
    loose = interval_bounds(network, images, radius, norm)(spec)
    assert (crown_ibp_bounds(network, images, radius, norm)(spec) >= loose).all()


class Cancelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(x.flatten(1))
        return y - y


def test_crown_is_tighter_where_branches_cancel() -> None:
    _, network = read(Classifier(Cancelled(), 3, has_null=False), torch.float64)
    images, spec = random_images(2, 0).double(), random_spec(2, 0).double()
    assert crown_ibp_bounds(network, images, 0.3, "linf")(spec).abs().max() < 1e-9
    assert interval_bounds(network, images, 0.3, "linf")(spec).max() < -0.1


@pytest.mark.parametrize("norm", NORMS)
def test_linear_networks_are_bounded_exactly(norm: str) -> None:
    body = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    model, network = read(Classifier(body, 3, has_null=False).eval(), torch.float64)
    images = random_images(3, 1).double() * 0.4 + 0.3  # the ball is inside [0,1]
    spec, radius = random_spec(3, 1).double(), 0.2
    zero = model(torch.zeros_like(images[:1]))[0]
    basis = torch.eye(72, dtype=torch.float64).view(72, 2, 6, 6)
    normal = spec @ (model(basis) - zero).T  # logits are matrix @ x + zero
    length = normal.abs().sum(dim=2) if norm == "linf" else normal.norm(dim=2)
    truth = torch.einsum("nml,nl->nm", spec, model(images)) - radius * length
    bound = crown_ibp_bounds(network, images, radius, norm)(spec)
    assert (bound <= truth + 1e-12).all()
    torch.testing.assert_close(bound, truth, rtol=0, atol=1e-9)


def test_one_hidden_monotone_layer_is_bounded_exactly() -> None:
    hidden, last = nn.Linear(72, 6), nn.Linear(6, 2)
    with torch.no_grad():
        hidden.weight.abs_()
        last.weight[0].abs_()
        last.weight[1].abs_().neg_()
    body = nn.Sequential(nn.Flatten(), hidden, nn.Sigmoid(), last)
    model, network = read(Classifier(body, 2, has_null=False), torch.float64)
    images = random_images(3, 2).double()
    spec = torch.tensor([[1.0, -1.0]], dtype=torch.float64)  # rises in every pixel
    truth = model((images - 0.1).clamp(min=0)) @ spec.T
    for verifier in VERIFIERS.values():
        bound = verifier(network, images, 0.1, "linf")(spec)
        torch.testing.assert_close(bound, truth, rtol=0, atol=1e-9)
        assert (bound <= truth).all()


def test_brute_force_of_two_pixels() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Flatten(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)
    )
    model, network = read(Classifier(body, 2, has_null=False), torch.float64, (1, 1, 2))
    image = torch.tensor([[[[0.05, 0.6]]]], dtype=torch.float64)
    spec = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    axis = torch.linspace(-0.1, 0.1, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    for norm in NORMS:
        deltas = grid if norm == "linf" else grid[grid.norm(dim=1) <= 0.1]
        points = (image.flatten() + deltas).clamp(0, 1).view(-1, 1, 1, 2)
        truth = (model(points) @ spec.T).amin(dim=0)
        for verifier in VERIFIERS.values():
            bound = verifier(network, image, 0.1, norm)(spec)[0]
            assert (bound <= truth).all()
            assert (bound >= truth - 0.5).all()


def test_batches_are_split_without_an_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = read(small_model(nn.ReLU(), seed=3))
    images, spec = random_images(7, 3), random_spec(7, 3)
    bounds = crown_ibp_bounds(network, images, 0.05, "linf")(spec)
    monkeypatch.setattr(crown, "MAX_COEFFICIENTS", 108 * 4 * 2)  # two images at once
    torch.testing.assert_close(crown_ibp_bounds(network, images, 0.05, "linf")(spec), bounds)
    assert crown_ibp_bounds(network, images[:0], 0.05, "linf")(spec[:0]).shape == (0, 4)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_gradients_reach_images_and_weights(verifier: str) -> None:
    model, network = read(small_model(nn.Tanh(), seed=4), torch.float64)
    images, spec = random_images(2, 4).double().requires_grad_(), random_spec(2, 4).double()
    VERIFIERS[verifier](network, images, 0.05, "linf")(spec).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def with_layer(network: Network, index: int, change: Callable[[Layer], Layer]) -> Network:
    steps = list(network.steps)
    steps[index] = replace(steps[index], layer=change(steps[index].layer))
    return replace(network, steps=tuple(steps))


def shrink(layer: Layer) -> Layer:
    """The layer with a bound that is too small."""

    class Shrunk(type(layer)):  # type: ignore[misc]
        def bound(self, *inputs, rounding):  # type: ignore[no-untyped-def]
            box = super().bound(*inputs, rounding=rounding)
            return Box(box.center, 0.1 * box.radius)

    return Shrunk(**{name: getattr(layer, name) for name in layer.__dataclass_fields__})  # type: ignore[attr-defined]


@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_a_bound_that_is_too_small_is_found(index: int) -> None:
    model, network = read(small_model(nn.Identity(), seed=5))
    images, spec = random_images(6, 5), random_spec(6, 5)
    broken = with_layer(network, index, shrink)
    assert worst_gap(interval_bounds, network, model, images, 0.01, "linf", spec) >= 0
    assert worst_gap(interval_bounds, broken, model, images, 0.01, "linf", spec) < 0


def test_a_relaxation_that_is_too_tight_is_found() -> None:
    model, network = read(small_model(nn.Identity(), seed=6))
    is_relu = [isinstance(step.layer, Monotone) for step in network.steps]

    def tighten(layer: Layer) -> Layer:
        def relax(box: Box, rounding: Rounding):  # type: ignore[no-untyped-def]
            lines = layer.relax(box, rounding)  # type: ignore[attr-defined]
            low, high = lines.lower_intercept + 0.3, lines.upper_intercept - 0.3
            return replace(lines, lower_intercept=low, upper_intercept=high)

        return replace(layer, relax=relax)  # type: ignore[type-var]

    broken = with_layer(network, is_relu.index(True), tighten)
    images, spec = random_images(6, 6), random_spec(6, 6)
    assert worst_gap(crown_ibp_bounds, network, model, images, 0.05, "linf", spec) >= 0
    assert worst_gap(crown_ibp_bounds, broken, model, images, 0.05, "linf", spec) < 0


@pytest.mark.parametrize("norm", NORMS)
def test_the_margin_is_needed_and_enough(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of some units are the differences of numbers near 1e7: float32 loses the units."""
    generator = torch.Generator().manual_seed(7)
    hidden, last = nn.Linear(72, 16), nn.Linear(16, 2)
    with torch.no_grad():
        hidden.weight.copy_(1e7 * torch.randn(16, 72, generator=generator))
        last.weight.copy_(torch.randn(2, 16, generator=generator))
    body = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), last)
    model, network = read(Classifier(body, 2, has_null=False))
    images, spec = random_images(40, 7), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert worst_gap(interval_bounds, network, model, images, 0.0, norm, spec) >= 0
    assert worst_gap(crown_ibp_bounds, network, model, images, 0.0, norm, spec) >= 0
    monkeypatch.setattr("nullclass.certify.interval.rounding_for", lambda images: NO_ROUNDING)
    assert worst_gap(interval_bounds, network, model, images, 0.0, norm, spec) < -0.1


@pytest.mark.parametrize("layer", LAYERS)
def test_float32_bounds_are_below_those_of_float64(layer: str) -> None:
    model, network = read(small_model(LAYERS[layer](), seed=8, scale=20))
    images, spec = random_images(5, 8), random_spec(5, 8)
    single = {
        name: verify(network, images, 0.02, "linf")(spec) for name, verify in VERIFIERS.items()
    }
    _, network = read(model, torch.float64)
    for name, verify in VERIFIERS.items():
        double = verify(network, images.double(), 0.02, "linf")(spec.double())
        assert (single[name].double() <= double + 1e-9 * double.abs()).all()
        assert (double - single[name]).max() <= 1e-3 * double.abs().max()


def test_weights_whose_squares_underflow_are_bounded() -> None:
    linear = Linear(F.linear, torch.full((1, 2), 1e-25), None)
    ball = Ellipsoid(torch.zeros(1, 2), torch.ones(1, 2), 1.0, torch.zeros(1, 2))
    box = linear.bound(ball, rounding=rounding_of(torch.float32))
    assert float(box.radius) >= 2**0.5 * 1e-25  # type: ignore[arg-type]
