"""Which models are read, which are refused, and that the result is the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from proof_worlds import tiny_net
from soundness import LAYERS, random_images, random_spec, read, small_model
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from nullclass.certify import VERIFIERS, find_verifier, proof_dtype, read_network
from nullclass.core.errors import UserError
from nullclass.models import Classifier
from nullclass.rejection import ProvableNull


class Lambda(nn.Module):
    """A function as a network, with a linear layer it may use."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(2, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_network_computes_what_the_model_does(layer: str) -> None:
    model, network = read(small_model(LAYERS[layer](), seed=0), torch.float64)
    images = random_images(3, 0).double()
    torch.testing.assert_close(network.values(images), model(images))


def test_arguments_by_keyword_are_read() -> None:
    body = Lambda(lambda self, x: F.relu(input=self.linear(input=torch.flatten(x, start_dim=1))))
    model = Classifier(body, 3, has_null=False)
    images = torch.rand(4, 1, 1, 2)
    assert torch.allclose(read_network(model).values(images), model(images), atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.GELU(), r"'1' \(GELU\)"),
        (nn.Softmax(dim=1), r"'1' \(Softmax\)"),
        (nn.LeakyReLU(-0.1), "LeakyReLU"),
        (nn.ELU(2.0), "ELU"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), "Conv2d"),
        (nn.BatchNorm2d(3, track_running_stats=False), "BatchNorm2d"),
        (nn.Flatten(0), "Flatten"),
        (nn.ReLU(inplace=True), r"'1' \(ReLU\) changes an activation in place.*inplace=True"),
        (Lambda(lambda self, x: F.gelu(x)), "'gelu'"),
        (Lambda(lambda self, x: torch.flatten(x)), "'flatten'"),
        (Lambda(lambda self, x: x.view(x.size(1), -1)), "'view'"),
        (Lambda(lambda self, x: F.relu(x, True)), "'relu'.* in place"),
        (Lambda(lambda self, x: x.relu_() + x), "'relu_'.* in place"),
        (Lambda(lambda self, x: F.dropout(x, 0.5)), "'dropout'"),
        (Lambda(lambda self, x: x.mean((2, 3), dtype=torch.float64)), "'mean'"),
        (Lambda(lambda self, x: torch.add(x, x, alpha=2)), "'add'"),
    ],
)
def test_layers_without_a_bound_are_named(layer: nn.Module, message: str) -> None:
    body = nn.Sequential(nn.Conv2d(1, 3, 3), layer)
    with pytest.raises(UserError, match=message):
        read_network(Classifier(body, 3, has_null=False).eval())


def in_place(self: Lambda, x: Tensor) -> Tensor:
    x = x * 2
    y = x
    y += 1
    return x + y


def hooked(layer: nn.Linear) -> nn.Module:
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    return layer


def replaced(layer: nn.Linear) -> nn.Module:
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


class WithShift(nn.Module):
    def forward(self, x: Tensor, shift: float = 1.0) -> Tensor:
        return x.flatten(1) + shift


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (Lambda(in_place), r"\+= .* in place"),
        (Lambda(lambda self, x: x if x.sum() > 0 else -x), "values of its input"),
        (Lambda(lambda self, x: self.relu(x) + x), "'1.relu'.* in place"),
        (Lambda(lambda self, x: (self.linear(x), x)[1]), "compute nothing after"),
        (hooked(nn.Linear(2, 3)), "has a hook"),
        (replaced(nn.Linear(2, 3)), "replaced forward"),
        (weight_norm(nn.Linear(2, 3)), "remove_parametrizations"),
        (nn.BatchNorm2d(3), "'1' .* batch norm in training mode"),
    ],
)
def test_what_a_trace_would_misread_is_refused(body: nn.Module, message: str) -> None:
    model = Classifier(nn.Sequential(nn.Flatten(), body), 3, has_null=False)
    with pytest.raises(UserError, match=message):
        read_network(model.train())


def test_further_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="takes 'shift' besides the images"):
        read_network(Classifier(WithShift(), 2, has_null=False))


def test_the_model_itself_is_compared() -> None:
    """With an image_shape a wrong number of logits and random layers are found at once."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(2, 4))
    with pytest.raises(UserError, match="num_classes"):
        read_network(Classifier(body, 3, has_null=False, image_shape=(1, 1, 2)))
    noisy = Lambda(lambda self, x: self.linear(x.flatten(1)) + float(torch.rand(())))
    with pytest.raises(UserError, match="random numbers"):
        read_network(Classifier(noisy, 3, has_null=False, image_shape=(1, 1, 2)))
    with pytest.raises(UserError, match="use the classifier inside"):
        read_network(ProvableNull(tiny_net(0), 0.1))
    with pytest.raises(UserError, match="float32 or float64"):
        read_network(tiny_net(0).half())


def test_machines_without_exact_float32_products() -> None:
    """CUDA, and a CPU without oneDNN, compute in float64; other devices are refused."""
    cpu = torch.device("cpu")
    assert proof_dtype(cpu, torch.float32) == torch.float32
    assert proof_dtype(torch.device("cuda"), torch.float32) == torch.float64
    with pytest.raises(UserError, match="mps"):
        proof_dtype(torch.device("mps"), torch.float32)
    _, network = read(small_model(nn.ReLU(), seed=0))
    images, spec = random_images(2, 0), random_spec(2, 0)
    for verifier in VERIFIERS.values():
        bounds = verifier(network, images, 0.1, "linf", spec)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(verifier(network, images, 0.1, "linf", spec), bounds)
        with torch.backends.mkldnn.flags(enabled=False):
            assert proof_dtype(cpu, torch.float32) == torch.float64
            double = verifier(network, images, 0.1, "linf", spec)
        torch.testing.assert_close(double, bounds, rtol=0, atol=1e-3)
        before = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("medium")
            with pytest.raises(UserError, match="fewer bits"):
                verifier(network, images, 0.1, "linf", spec)
        finally:
            torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("radius", "norm", "message"),
    [
        (-0.1, "linf", "negative"),
        (1.5, "linf", r"\[0, 1\]"),
        (0.1, "l1", "'l1'"),
        (float("nan"), "l2", "finite"),
    ],
)
def test_invalid_balls_and_verifiers_are_refused(radius: float, norm: str, message: str) -> None:
    _, network = read(small_model(nn.ReLU(), seed=0))
    for verifier in VERIFIERS.values():
        with pytest.raises(UserError, match=message):
            verifier(network, random_images(1, 0), radius, norm, random_spec(1, 0))
    with pytest.raises(UserError, match="choose one of interval, crown-ibp"):
        find_verifier("magic")
