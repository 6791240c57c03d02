"""Somebody else's bounds beside ours; skipped where auto_LiRPA is not installed."""

from __future__ import annotations

import sys

import pytest
import torch
from soundness import LAYERS, Residual, random_images, random_spec, read, small_model
from torch import nn

from nullclass.certify.crown import crown_ibp
from nullclass.certify.interval import interval
from nullclass.certify.lirpa import lirpa_bounds
from nullclass.core.errors import UserError
from nullclass.models import Classifier

UNKNOWN = {"elu", "hardtanh", "relu6", "viewed"}
"""Not known to auto_LiRPA 0.3."""
REFUSED_POOLS = {"average", "overlapping maximum", "adaptive average", "grouped convolution"} | {
    "dropout"
}
"""Settings of pooling and of convolution that it does not take; and dropout, whose mode it cannot
tell."""
COMMON = sorted(set(LAYERS) - UNKNOWN - REFUSED_POOLS)


def is_installed() -> bool:
    try:
        lirpa_bounds(
            small_model(nn.Identity(), 0), random_images(1, 0), 0, "linf", random_spec(1, 0)
        )
    except UserError:
        return False
    return True


needs_lirpa = pytest.mark.skipif(not is_installed(), reason="auto_LiRPA is not installed")


def test_its_absence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    with pytest.raises(UserError, match="--no-deps auto_LiRPA"):
        lirpa_bounds(
            small_model(nn.Identity(), 0), random_images(1, 0), 0, "linf", random_spec(1, 0)
        )


@needs_lirpa
@pytest.mark.parametrize("layer", COMMON)
def test_interval_bounds_are_theirs(layer: str) -> None:
    model, network = read(small_model(LAYERS[layer](), seed=0), torch.float64)
    images, spec = random_images(4, 0).double(), random_spec(4, 0).double()
    theirs = lirpa_bounds(model, images, 0.05, "linf", spec)
    ours = interval(network, images, 0.05, "linf", spec)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@needs_lirpa
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_crown_bounds_of_a_relu_network_are_theirs(norm: str) -> None:
    body = nn.Sequential(
        nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)
    )
    model, network = read(Classifier(body, 3, has_null=False), torch.float64)
    images, spec = random_images(4, 0).double(), random_spec(4, 0).double()
    theirs = lirpa_bounds(model, images, 0.05, norm, spec, method="CROWN-IBP")
    ours = crown_ibp(network, images, 0.05, norm, spec)
    assert (ours >= theirs - 1e-6).all()  # ours takes the best of every layer


@needs_lirpa
def test_an_unknown_layer_is_told() -> None:
    model = small_model(nn.ELU(), 0)
    with pytest.raises(UserError, match="cannot read"):
        lirpa_bounds(model, random_images(1, 0), 0.1, "linf", random_spec(1, 0))


@needs_lirpa
def test_torch_and_numpy_are_left_as_they_were() -> None:
    lirpa_bounds(small_model(Residual(), 0), random_images(1, 0), 0.1, "linf", random_spec(1, 0))
    assert not hasattr(torch._C.Node, "__getitem__")
    assert "numpy.lib.arraysetops" not in sys.modules
