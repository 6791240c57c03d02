"""Certificates for a learned null: sound by brute force, and tighter than either logit alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from proof_worlds import square_grid, tiny_net
from torch import Tensor, nn

from nullclass.certify.interval import lower_bounds, reach
from nullclass.certify.learned_null import not_fooled_margins
from nullclass.certify.network import read_network
from nullclass.certify.regions import region_around
from nullclass.certify.rounding import rounding_of
from nullclass.certify.verifiers import VERIFIERS
from nullclass.models import Classifier


def proved(model: Classifier, images: Tensor, labels: Tensor, radius: float, **how: str) -> Tensor:
    network = read_network(model)
    return not_fooled_margins(
        network,
        images,
        labels,
        radius,
        num_classes=model.num_classes,
        norm=how.get("norm", "linf"),
        verifier=VERIFIERS[how.get("verifier", "interval")],
    )


def line(rows: list[tuple[float, float]]) -> nn.Module:
    """Logits ``a x + b`` of one pixel."""
    layer = nn.Linear(1, len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[a] for a, _ in rows]))
        layer.bias.copy_(torch.tensor([b for _, b in rows]))
    return nn.Sequential(nn.Flatten(), layer)


MIDDLE = torch.full((1, 1, 1, 1), 0.5)
RISING, FALLING, OTHER = (4.0, -1.0), (-4.0, 3.0), (0.0, 0.5)


def test_a_mix_proves_what_neither_logit_does() -> None:
    """z_y = 4x - 1 and z_null = 3 - 4x: one of them is high everywhere, their mean is 1."""
    model = Classifier(line([RISING, OTHER, FALLING]), 2).eval()
    found = proved(model, MIDDLE, torch.tensor([0]), 0.4)
    assert float(found) == pytest.approx(0.5, abs=1e-4)
    x = torch.linspace(0.1, 0.9, 201).view(-1, 1, 1, 1)
    assert (model.predict(x) != 1).all()
    network, rounding = read_network(model), rounding_of(torch.float32)
    reached = reach(network, region_around(MIDDLE, 0.4, "linf", rounding), rounding)
    either = lower_bounds(reached, torch.tensor([[1.0, -1, 0], [0, -1, 1]]), rounding)
    assert (either < -1).all(), "true label and null alone prove nothing"


def test_of_twins_the_best_serves() -> None:
    for nulls in ([FALLING, (0.0, -9.0)], [(0.0, -9.0), FALLING]):
        model = Classifier(line([RISING, OTHER, *nulls]), 2, num_nulls=2).eval()
        found = proved(model, MIDDLE, torch.tensor([0]), 0.4)
        assert float(found) == pytest.approx(0.5, abs=1e-4)
    hopeless = Classifier(line([RISING, OTHER, (0.0, -9.0)]), 2).eval()
    assert proved(hopeless, MIDDLE, torch.tensor([0]), 0.4) < 0


@pytest.mark.parametrize("num_nulls", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_on_a_grid_is_fooled_where_that_is_proved(seed: int, num_nulls: int) -> None:
    model = tiny_net(seed, num_nulls=num_nulls)
    images = square_grid(41)
    points = images.flatten(1).double()
    within = torch.cdist(points, points, p=torch.inf) <= 0.1 + 1e-9
    answers = model.predict(images)
    total = 0
    for label in range(3):
        labels = torch.full((len(images),), label)
        is_proved = proved(model, images, labels, 0.1) > 0
        fooled = (answers >= 0) & (answers != label)
        assert not (within & is_proved[:, None] & fooled[None]).any()
        total += int(is_proved.sum())
    assert 0 < total < 3 * len(images)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["linf", "l2"]))
def test_no_random_point_is_fooled_where_that_is_proved(seed: int, norm: str) -> None:
    model = tiny_net(seed, num_classes=4, num_nulls=1, pixels=5)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((30, 1, 1, 5), generator=generator)
    labels = torch.randint(0, 4, (30,), generator=generator)
    is_proved = proved(model, images, labels, 0.1, norm=norm) > 0
    for _ in range(20):
        delta = 2 * torch.rand(images.shape, generator=generator) - 1
        if norm == "l2":
            delta = delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        answers = model.predict((images + 0.1 * delta).clamp(0, 1))
        assert not (is_proved & (answers >= 0) & (answers != labels)).any()


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_bisection_finds_the_best_lambda(seed: int) -> None:
    """Against all 1025 of them."""
    model = tiny_net(seed, num_nulls=1, pixels=4).double()
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((6, 1, 1, 4), generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (6,), generator=generator)
    found = proved(model, images, labels, 0.08)
    network, rounding = read_network(model), rounding_of(torch.float64)
    reached = reach(network, region_around(images, 0.08, "linf", rounding), rounding)
    share = torch.linspace(0, 1, 1025, dtype=torch.float64)
    for place, label in enumerate(labels.tolist()):
        worst = torch.inf
        for rival in {0, 1, 2} - {label}:
            spec = torch.zeros((1025, 4), dtype=torch.float64)
            spec[:, label], spec[:, 3], spec[:, rival] = share, 1 - share, -1
            with torch.no_grad():
                bounds = lower_bounds(reached, spec, rounding)[place]
            worst = min(worst, float(bounds.max()))
        assert float(found[place]) == pytest.approx(worst, abs=1e-9)
