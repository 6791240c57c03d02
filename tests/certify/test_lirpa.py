"""Our bounds compared with auto_LiRPA's; skipped if it is not installed."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from lirpa import LirpaVerifier
from soundness import LAYERS, random_images, random_spec, read, small_model
from torch import nn

from nullclass.certify import crown_ibp_bounds, interval_bounds
from nullclass.certify.branching import NUM_STEPS, BoundedBall
from nullclass.models import Classifier

IMAGES, SPEC = random_images(4, 0).double(), random_spec(4, 0).double()
UNSUPPORTED = {
    *("elu", "hardtanh", "relu6", "viewed"),
    *("average", "overlapping maximum", "adaptive average", "grouped convolution", "dropout"),
}
"""Layers, or settings of pooling and convolution, that auto_LiRPA 0.3 does not take."""


def lirpa_bounds(
    model: Classifier, norm: str, method: str, images: torch.Tensor = IMAGES, radius: float = 0.05
) -> torch.Tensor:
    try:
        verifier = LirpaVerifier(model, images[:1], method)
    except ImportError:
        pytest.skip("auto_LiRPA is not installed")
    assert not hasattr(torch._C.Node, "__getitem__"), "torch is left as it was"
    return verifier(images, radius, norm, SPEC.to(images.dtype))


@pytest.mark.parametrize("layer", sorted(set(LAYERS) - UNSUPPORTED))
def test_interval_bounds_are_equal(layer: str) -> None:
    model, network = read(small_model(LAYERS[layer](), seed=0), torch.float64)
    ours = interval_bounds(network, IMAGES, 0.05, "linf")(SPEC)
    torch.testing.assert_close(ours, lirpa_bounds(model, "linf", "IBP"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_crown_bounds_of_a_relu_network_are_not_looser(norm: str) -> None:
    body = nn.Sequential(
        nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)
    )
    model, network = read(Classifier(body, 3, has_null=False), torch.float64)
    ours = crown_ibp_bounds(network, IMAGES, 0.05, norm)(SPEC)
    assert (ours >= lirpa_bounds(model, norm, "CROWN-IBP") - 1e-6).all()


@pytest.mark.parametrize("radius", [0.05, 0.1])
def test_optimised_slopes_prove_as_much(radius: float) -> None:
    body = nn.Sequential(
        nn.Flatten(), nn.Linear(72, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)
    )
    model, network = read(Classifier(body, 3, has_null=False), torch.float64)
    ours = []
    for image, rows in zip(IMAGES, SPEC, strict=True):
        ball = BoundedBall(network, image[None], radius, "linf")
        ours.append(ball.bound(ball.whole(rows[:, None]), NUM_STEPS).bounds)
    peer = lirpa_bounds(
        deepcopy(model).float(), "linf", "CROWN-Optimized", IMAGES.float(), radius
    ).double()
    gain = torch.stack(ours) - peer
    assert gain.min() > -1e-3
    assert gain.mean() > -1e-4
    assert (gain < 1e-2).all(), "neither is far from the best slopes"
