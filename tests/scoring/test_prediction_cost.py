"""The cost of a prediction, against passes that can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nullclass.models import Classifier
from nullclass.models.classifier import network_inside
from nullclass.rejection import (
    DETECTORS,
    ConsistentNull,
    FeatureSqueezing,
    ProvableNull,
    reject_by,
    with_threshold,
)
from nullclass.scoring.prediction_cost import prediction_cost


def network() -> Classifier:
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    return Classifier(body, 3, has_null=False, image_shape=(1, 4, 4))


IMAGES = torch.rand(70, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_passes() -> None:
    inside = network()
    labels = torch.arange(70) % 3
    cases = {
        (1, 0): reject_by(inside, "energy", 0.1),
        (3, 0): with_threshold(reject_by(inside, FeatureSqueezing(inside)), 0.1),
        (33, 0): reject_by(inside, DETECTORS["odds-are-odd"](inside, (IMAGES, labels), 0), 1.0),
        (2 * 6 + 2, 2 * 5): ConsistentNull(inside, 0.1, num_steps=5, num_restarts=1),
        (0, 0): ProvableNull(inside, 0.1),
    }
    for (num_forwards, num_backwards), model in cases.items():
        assert network_inside(model) is inside
        cost = prediction_cost(model, IMAGES)
        assert (cost.num_forwards, cost.num_backwards) == (num_forwards, num_backwards)
        assert cost.cpu_ms > 0


def test_the_model_is_left_as_it_was() -> None:
    model = network().train()
    prediction_cost(model, IMAGES[:1])
    assert model.training
    assert not model._forward_hooks
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("num_images", [1, 64, 70])
def test_per_image(num_images: int) -> None:
    assert prediction_cost(network(), IMAGES[:num_images]).num_forwards == 1
