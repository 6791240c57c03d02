"""Bounds against searches of the ball, the truth where it is known, and planted mistakes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soundness import LAYERS, random_images, random_spec, read, small_model, worst_gap
from torch import Tensor, nn

from nullclass.certify import crown
from nullclass.certify.crown import crown_ibp
from nullclass.certify.interval import interval
from nullclass.certify.layers import Layer, Linear, Monotone
from nullclass.certify.network import Network
from nullclass.certify.regions import Box, Region
from nullclass.certify.rounding import NONE, Rounding
from nullclass.certify.verifiers import VERIFIERS
from nullclass.models import Classifier

NORMS = ("linf", "l2")


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_in_the_ball_is_below_the_bound(verifier: str, norm: str, layer: str) -> None:
    model, network = read(small_model(LAYERS[layer](), seed=0))
    images, spec = random_images(4, 0), random_spec(4, 0)
    for radius in (0.0, 0.03, 0.4):
        gap = worst_gap(VERIFIERS[verifier], network, model, images, radius, norm, spec)
        assert gap >= 0
        if radius == 0:
            assert gap < 1e-3  # and not for being empty


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
    loose = interval(network, images, radius, norm, spec)
    assert (crown_ibp(network, images, radius, norm, spec) >= loose).all()


def test_crown_is_tighter_where_branches_cancel() -> None:
    class Cancelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.last = nn.Flatten(), nn.Linear(72, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.last(self.flat(x))
            return y - y

    _, network = read(Classifier(Cancelled(), 3, has_null=False), torch.float64)
    images, spec = random_images(2, 0).double(), random_spec(2, 0).double()
    assert crown_ibp(network, images, 0.3, "linf", spec).abs().max() < 1e-9
    assert interval(network, images, 0.3, "linf", spec).max() < -0.1


@pytest.mark.parametrize("norm", NORMS)
def test_linear_networks_are_bounded_exactly(norm: str) -> None:
    body = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    model, network = read(Classifier(body, 3, has_null=False).eval(), torch.float64)
    images = random_images(3, 1).double() * 0.4 + 0.3  # the cube is out of reach
    spec, radius = random_spec(3, 1).double(), 0.2
    zero = model(torch.zeros_like(images[:1]))[0]
    basis = torch.eye(72, dtype=torch.float64).view(72, 2, 6, 6)
    matrix = (model(basis) - zero).T  # logits are matrix @ x + zero
    normal = spec @ matrix
    length = normal.abs().sum(dim=2) if norm == "linf" else normal.norm(dim=2)
    truth = torch.einsum("nml,nl->nm", spec, model(images)) - radius * length
    bound = crown_ibp(network, images, radius, norm, spec)
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
        bound = verifier(network, images, 0.1, "linf", spec)
        torch.testing.assert_close(bound, truth, rtol=0, atol=1e-9)
        assert (bound <= truth).all()


def test_brute_force_of_two_pixels() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Flatten(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)
    )
    model, network = read(Classifier(body, 2, has_null=False), torch.float64)
    image = torch.tensor([[[[0.05, 0.6]]]], dtype=torch.float64)
    spec = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    axis = torch.linspace(-0.1, 0.1, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    for norm in NORMS:
        kept = grid if norm == "linf" else grid[grid.norm(dim=1) <= 0.1]
        points = (image.flatten() + kept).clamp(0, 1).view(-1, 1, 1, 2)
        truth = (model(points) @ spec.T).amin(dim=0)
        for verifier in VERIFIERS.values():
            bound = verifier(network, image, 0.1, norm, spec)[0]
            assert (bound <= truth).all()
            assert (bound >= truth - 0.5).all()


def test_batches_are_taken_in_parts_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = read(small_model(nn.ReLU(), seed=3))
    images, spec = random_images(7, 3), random_spec(7, 3)
    whole = crown_ibp(network, images, 0.05, "linf", spec)
    monkeypatch.setattr(crown, "MOST_NUMBERS", 108 * 4 * 2)  # two images at once
    torch.testing.assert_close(crown_ibp(network, images, 0.05, "linf", spec), whole)
    assert crown_ibp(network, images[:0], 0.05, "linf", spec[:0]).shape == (0, 4)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_gradients_reach_images_and_weights(verifier: str) -> None:
    model, network = read(small_model(nn.Tanh(), seed=4), torch.float64)
    images, spec = random_images(2, 4).double().requires_grad_(), random_spec(2, 4).double()
    VERIFIERS[verifier](network, images, 0.05, "linf", spec).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def _shrunk(layer: Layer) -> Layer:
    """The same layer with a bound that is too small."""

    class Shrunk(type(layer)):  # type: ignore[misc]
        def bound(self, *inputs: Region, rounding: Rounding) -> Region:
            box = super().bound(*inputs, rounding=rounding)
            assert isinstance(box, Box)
            return Box(box.center, 0.1 * box.radius)

    return Shrunk(**{name: getattr(layer, name) for name in layer.__dataclass_fields__})


@pytest.mark.parametrize("place", [1, 2, 4, 5])
def test_a_bound_that_is_too_small_is_caught(place: int) -> None:
    model, network = read(small_model(nn.Identity(), seed=5))
    steps = list(network.steps)
    steps[place] = replace(steps[place], layer=_shrunk(steps[place].layer))
    broken = Network(tuple(steps), network.last_use, network.num_logits)
    images, spec = random_images(6, 5), random_spec(6, 5)
    search = partial(worst_gap, interval, images=images, radius=0.01, norm="linf", spec=spec)
    assert search(network=network, model=model) >= 0
    assert search(network=broken, model=model) < 0


def test_a_line_that_is_too_high_is_caught() -> None:
    model, network = read(small_model(nn.Identity(), seed=6))
    relu = next(step for step in network.steps if isinstance(step.layer, Monotone))
    assert isinstance(relu.layer, Monotone)
    lines_of = relu.layer.lines
    assert lines_of is not None

    def raised(box: Box, rounding: Rounding):  # type: ignore[no-untyped-def]
        lines = lines_of(box, rounding)
        return replace(
            lines, lower_shift=lines.lower_shift + 0.3, upper_shift=lines.upper_shift - 0.3
        )

    bad = replace(relu, layer=replace(relu.layer, lines=raised))
    steps = tuple(bad if step is relu else step for step in network.steps)
    broken = Network(steps, network.last_use, network.num_logits)
    images, spec = random_images(6, 6), random_spec(6, 6)
    assert worst_gap(crown_ibp, network, model, images, 0.05, "linf", spec) >= 0
    assert worst_gap(crown_ibp, broken, model, images, 0.05, "linf", spec) < 0


def _cancelling() -> Classifier:
    """Logits of some units, each the rest of numbers near 1e7: float32 loses the units."""
    generator = torch.Generator().manual_seed(7)
    hidden, last = nn.Linear(72, 16), nn.Linear(16, 2)
    with torch.no_grad():
        hidden.weight.copy_(1e7 * torch.randn(16, 72, generator=generator))
        last.weight.copy_(torch.randn(2, 16, generator=generator))
    return Classifier(nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), last), 2, has_null=False)


@pytest.mark.parametrize("norm", NORMS)
def test_the_margin_is_needed_and_enough(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, network = read(_cancelling())
    images = random_images(40, 7)
    spec = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert worst_gap(interval, network, model, images, 0.0, norm, spec) >= 0
    assert worst_gap(crown_ibp, network, model, images, 0.0, norm, spec) >= 0
    monkeypatch.setattr("nullclass.certify.interval.rounding_for", lambda images: NONE)
    assert worst_gap(interval, network, model, images, 0.0, norm, spec) < -0.1


@pytest.mark.parametrize("layer", LAYERS)
def test_float32_bounds_are_below_those_of_float64(layer: str) -> None:
    model, network = read(small_model(LAYERS[layer](), seed=8, scale=20))
    images, spec = random_images(5, 8), random_spec(5, 8)
    rough = {
        name: verify(network, images, 0.02, "linf", spec) for name, verify in VERIFIERS.items()
    }
    _, network = read(model, torch.float64)
    for name, verify in VERIFIERS.items():
        exact = verify(network, images.double(), 0.02, "linf", spec.double())
        assert (rough[name].double() <= exact + 1e-9 * exact.abs()).all()
        assert (exact - rough[name]).max() <= 1e-3 * exact.abs().max()


def test_tiny_and_vanishing_weights_stay_sound() -> None:
    linear = Linear(torch.nn.functional.linear, torch.full((1, 2), 1e-25), None)
    from nullclass.certify.regions import Ball
    from nullclass.certify.rounding import rounding_of

    image = torch.zeros(1, 2)
    ball = Ball(image, torch.ones(1, 2), 1.0, torch.zeros(1, 2))
    box = linear.bound(ball, rounding=rounding_of(torch.float32))
    assert isinstance(box, Box)
    assert float(box.radius) >= 2**0.5 * 1e-25  # whose square is 0 in float32
