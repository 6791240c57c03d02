"""Forcing null where a model answers what holds within a radius, by an image beyond eps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from proof_worlds import line_world, tiny_net

from nullclass.attacks import PGD, worst_case
from nullclass.attacks.beyond_radius import BeyondRadius
from nullclass.core.errors import UserError
from nullclass.core.norms import size_of
from nullclass.core.outcomes import NULL_LABEL
from nullclass.models import Classifier
from nullclass.rejection import ConsistentNull, ProvableNull

RADIUS = 0.1


@pytest.mark.parametrize("make", [ProvableNull, ConsistentNull])
def test_on_a_line_null_is_forced_exactly_within_eps_and_radius(make: Any) -> None:
    """Class 0 is above 0.5, so it is taken from 0.5 + d where d < eps + r, and no further."""
    images = torch.tensor([0.52, 0.64, 0.68, 0.72, 0.76, 0.95]).view(-1, 1, 1, 1)
    labels = torch.zeros(len(images), dtype=torch.long)
    for eps in (0.1, torch.linspace(0.05, 0.15, 6)):
        model = make(line_world(), RADIUS)
        adv_images = BeyondRadius(PGD())(model, images, labels, eps=eps)
        limits = torch.as_tensor(eps).expand(6)
        assert (size_of(adv_images, images, "linf") <= limits + 1e-6).all()
        is_near = images.flatten() - 0.5 < limits + RADIUS
        assert ((model.predict(adv_images) == NULL_LABEL) == is_near).all()
        assert 0 < is_near.sum() < 6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_fools_the_network_further_away_forces_null(norm: str) -> None:
    network = tiny_net(1)
    images = torch.rand(200, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    labels = network.predict(images)
    model = ProvableNull(network, RADIUS, norm=norm, verifier="cascade")
    attack, eps = PGD(num_restarts=3), 0.1
    options: dict[str, Any] = {"norm": norm, "generator": torch.Generator().manual_seed(0)}
    beyond = attack(network, images, labels, eps=eps + RADIUS, **options)
    options["generator"].manual_seed(0)
    adv_images = BeyondRadius(attack)(model, images, labels, eps=eps, **options)
    assert (size_of(adv_images, images, norm) <= eps + 1e-6).all()
    assert (size_of(adv_images, beyond, norm) <= RADIUS + 1e-6).all()
    is_fooled = network.predict(beyond) != labels
    answers = model.predict(adv_images)
    assert not (is_fooled & (answers == labels)).any()
    assert 20 < int((answers == NULL_LABEL).sum()) < 180


@pytest.mark.parametrize(
    ("model", "norm"),
    [(tiny_net(0, num_nulls=1), "linf"), (ProvableNull(tiny_net(0), RADIUS), "l2")],
)
def test_a_model_without_a_radius_in_the_norm_is_left_alone(model: Classifier, norm: str) -> None:
    images, labels = torch.rand(5, 1, 1, 2), torch.zeros(5, dtype=torch.long)
    adv_images = BeyondRadius(PGD())(model, images, labels, eps=0.1, norm=norm)
    assert torch.equal(adv_images, images)


def test_only_an_attack_that_fools_goes_beyond_the_radius() -> None:
    assert BeyondRadius(PGD()).objective == "force-null"
    assert worst_case("force-null").names[0] == "beyond-radius"
    with pytest.raises(UserError, match="beyond the radius is an image that fools the network"):
        BeyondRadius(PGD("force-null"))
