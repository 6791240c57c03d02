"""Proofs for a learned null: sound by brute force, and tighter than either logit alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from proof_worlds import distances, random_moves, square_grid, tiny_net
from torch import Tensor, nn

from nullclass.certify import (
    VERIFIERS,
    Propagation,
    lower_bounds,
    not_fooled_margins,
    propagate,
    read_network,
    region_around,
)
from nullclass.certify.rounding import rounding_of
from nullclass.models import Classifier


def margins_of(
    model: Classifier, images: Tensor, labels: Tensor, radius: float, norm: str = "linf"
) -> Tensor:
    return not_fooled_margins(
        read_network(model, images.shape[1:]),
        images,
        labels,
        radius,
        num_classes=model.num_classes,
        norm=norm,
        verifier=VERIFIERS["interval"],
    )


def propagated(model: Classifier, images: Tensor, radius: float) -> Propagation:
    rounding = rounding_of(images.dtype)
    region = region_around(images, radius, "linf", rounding)
    return propagate(read_network(model, images.shape[1:]), region, rounding)


def line(*rows: tuple[float, float]) -> nn.Module:
    """Logits ``a x + b`` of one pixel."""
    layer = nn.Linear(1, len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[a] for a, _ in rows]))
        layer.bias.copy_(torch.tensor([b for _, b in rows]))
    return nn.Sequential(nn.Flatten(), layer)


MIDDLE, LABEL = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
RISING, FALLING, OTHER, LOW = (4.0, -1.0), (-4.0, 3.0), (0.0, 0.5), (0.0, -9.0)


def test_a_combination_proves_what_neither_logit_does() -> None:
    """z_y = 4x - 1 and z_null = 3 - 4x: one of them is high everywhere, their mean is 1."""
    model = Classifier(line(RISING, OTHER, FALLING), 2).eval()
    assert float(margins_of(model, MIDDLE, LABEL, 0.4)) == pytest.approx(0.5, abs=1e-4)
    x = torch.linspace(0.1, 0.9, 201).view(-1, 1, 1, 1)
    assert (model.predict(x) != 1).all()
    spec = torch.tensor([[1.0, -1, 0], [0, -1, 1]])
    either = lower_bounds(propagated(model, MIDDLE, 0.4), spec, rounding_of(torch.float32))
    assert (either < -1).all(), "the true label and null alone prove nothing"


def test_the_best_of_several_nulls_is_used() -> None:
    for nulls in ((FALLING, LOW), (LOW, FALLING)):
        model = Classifier(line(RISING, OTHER, *nulls), 2, num_nulls=2).eval()
        assert float(margins_of(model, MIDDLE, LABEL, 0.4)) == pytest.approx(0.5, abs=1e-4)
    useless = Classifier(line(RISING, OTHER, LOW), 2).eval()
    assert margins_of(useless, MIDDLE, LABEL, 0.4) < 0


@pytest.mark.parametrize("num_nulls", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_no_proved_image_is_fooled_on_a_grid(seed: int, num_nulls: int) -> None:
    model = tiny_net(seed, num_nulls=num_nulls)
    images = square_grid(41)
    is_near, predicted = distances(images) <= 0.1 + 1e-9, model.predict(images)
    num_proved = 0
    for label in range(3):
        is_proved = margins_of(model, images, torch.full((len(images),), label), 0.1) > 0
        fooled = (predicted >= 0) & (predicted != label)
        assert not (is_near & is_proved[:, None] & fooled[None]).any()
        num_proved += int(is_proved.sum())
    assert 0 < num_proved < 3 * len(images)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["linf", "l2"]))
def test_no_proved_image_is_fooled_at_random_points(seed: int, norm: str) -> None:
    model = tiny_net(seed, num_classes=4, num_nulls=1, pixels=5)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((30, 1, 1, 5), generator=generator)
    labels = torch.randint(0, 4, (30,), generator=generator)
    is_proved = margins_of(model, images, labels, 0.1, norm) > 0
    predicted = model.predict(random_moves(images, 0.1, norm, generator, 20)).view(20, -1)
    assert not (is_proved & (predicted >= 0) & (predicted != labels)).any()


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_bisection_finds_the_best_of_all_lambdas(seed: int) -> None:
    model = tiny_net(seed, num_nulls=1, pixels=4).double()
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((6, 1, 1, 4), generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (6,), generator=generator)
    margins = margins_of(model, images, labels, 0.08)
    propagation = propagated(model, images, 0.08)
    weight = torch.linspace(0, 1, 1025, dtype=torch.float64)
    for index, label in enumerate(labels.tolist()):
        best = []
        for rival in {0, 1, 2} - {label}:
            spec = torch.zeros((1025, 4), dtype=torch.float64)
            spec[:, label], spec[:, 3], spec[:, rival] = weight, 1 - weight, -1
            bounds = lower_bounds(propagation, spec, rounding_of(torch.float64))[index]
            best.append(bounds.max().item())
        assert float(margins[index]) == pytest.approx(min(best), abs=1e-9)
