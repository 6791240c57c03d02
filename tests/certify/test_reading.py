"""What can be read, what is refused, and that what was read is the model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from soundness import LAYERS, random_images, random_spec, read, small_model
from torch import Tensor, nn

from nullclass.certify.network import read_network
from nullclass.certify.verifiers import VERIFIERS, find_verifier
from nullclass.core.errors import UserError
from nullclass.models import Classifier


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_read_computes_what_the_model_does(layer: str) -> None:
    model, network = read(small_model(LAYERS[layer](), seed=0), torch.float64)
    images = random_images(3, 0).double()
    torch.testing.assert_close(network.values(images), model(images))


class Forked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(1), -1)


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)


REFUSED = [
    (nn.GELU(), r"'1' \(GELU\)"),
    (nn.Softmax(dim=1), r"'1' \(Softmax\)"),
    (nn.LeakyReLU(-0.1), "LeakyReLU"),
    (nn.ELU(2.0), "ELU"),
    (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), "Conv2d"),
    (nn.BatchNorm2d(3, track_running_stats=False), "BatchNorm2d"),
    (nn.Flatten(0), "Flatten"),
    (Wide(), "'gelu'"),
    (Mixing(), "'view'"),
]


@pytest.mark.parametrize(("layer", "told"), REFUSED)
def test_layers_without_a_bound_are_named(layer: nn.Module, told: str) -> None:
    body = nn.Sequential(nn.Conv2d(1, 3, 3), layer)
    with pytest.raises(UserError, match=told):
        read_network(Classifier(body, 3, has_null=False).eval())


def test_batch_norm_in_training_is_refused() -> None:
    body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    with pytest.raises(UserError, match="'1' is batch norm in training mode"):
        read_network(Classifier(body, 3, has_null=False).train())


def test_a_pass_that_hangs_on_values_is_refused() -> None:
    with pytest.raises(UserError, match="values of its input"):
        read_network(Classifier(Forked(), 3, has_null=False))


def test_hooks_are_refused() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    body[1].register_forward_hook(lambda module, given, result: result + 1)
    with pytest.raises(UserError, match=r"'1' \(Linear\) has a hook"):
        read_network(Classifier(body, 3, has_null=False))


def test_products_of_fewer_bits_are_refused() -> None:
    _, network = read(small_model(nn.ReLU(), seed=0))
    images, spec = random_images(1, 0), random_spec(1, 0)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for verifier in VERIFIERS.values():
            with pytest.raises(UserError, match="fewer bits"):
                verifier(network, images, 0.1, "linf", spec)
    finally:
        torch.set_float32_matmul_precision(before)


def test_autocast_changes_no_bound() -> None:
    _, network = read(small_model(nn.ReLU(), seed=0))
    images, spec = random_images(2, 0), random_spec(2, 0)
    for verifier in VERIFIERS.values():
        plain = verifier(network, images, 0.1, "linf", spec)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(verifier(network, images, 0.1, "linf", spec), plain)


@pytest.mark.parametrize(
    ("radius", "norm", "told"),
    [
        (-0.1, "linf", "negative"),
        (1.5, "linf", r"\[0, 1\]"),
        (0.1, "l1", "'l1'"),
        (float("nan"), "l2", "finite"),
    ],
)
def test_bad_balls_are_refused(radius: float, norm: str, told: str) -> None:
    _, network = read(small_model(nn.ReLU(), seed=0))
    for verifier in VERIFIERS.values():
        with pytest.raises(UserError, match=told):
            verifier(network, random_images(1, 0), radius, norm, random_spec(1, 0))


def test_unknown_verifiers_are_refused() -> None:
    with pytest.raises(UserError, match="choose one of interval, crown-ibp"):
        find_verifier("magic")
