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
    """A function as a network, with layers it may use."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(8, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Doubled(nn.Linear):
    def forward(self, x: Tensor, factor: float = 2.0) -> Tensor:
        return factor * super().forward(x)


def hooked(layer: nn.Linear) -> nn.Module:
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    return layer


def replaced(layer: nn.Linear) -> nn.Module:
    layer.forward = lambda x: F.linear(x, layer.weight) * 3  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize("layer", LAYERS)
def test_the_network_computes_what_the_model_does(layer: str) -> None:
    model, network = read(small_model(LAYERS[layer](), seed=0), torch.float64)
    images = random_images(3, 0).double()
    torch.testing.assert_close(network.values(images), model(images))


@pytest.mark.parametrize(
    "last",
    [
        hooked(nn.Linear(8, 3)),
        replaced(nn.Linear(8, 3)),
        Doubled(8, 3),
        Lambda(lambda self, x: F.relu(input=torch.add(self.linear(input=x), 1))),
        Lambda(lambda self, x: (self.linear(x), x.relu())[0]),
        Lambda(lambda self, x: torch.reshape(self.linear(x), (len(x), -1)) - x.ndim),
    ],
)
def test_hooks_and_python_are_followed(last: nn.Module) -> None:
    body = nn.Sequential(nn.Flatten(), last)
    model = Classifier(body, 3, has_null=False, image_shape=(2, 2, 2))
    guarded, images = ProvableNull(model, 0.0), torch.rand(4, 2, 2, 2)
    for _ in range(2):
        network = guarded._network((2, 2, 2))
        torch.testing.assert_close(network.values(images), model(images))
        for parameter in model.parameters():
            parameter.data *= 1.5


def in_place(self: Lambda, x: Tensor) -> Tensor:
    x = x * 2
    y = x
    y += 1
    return x + y


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.GELU(), "'gelu'"),
        (nn.Softmax(dim=1), "'softmax'"),
        (nn.LeakyReLU(-0.1), "'leaky_relu' with .*-0.1"),
        (nn.ELU(2.0), "'elu' with"),
        (nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), "'pad'"),
        (nn.BatchNorm2d(1, track_running_stats=False), "'batch_norm'"),
        (nn.MaxPool2d(2, return_indices=True), "'max_pool2d_with"),
        (nn.Flatten(0), "'flatten'"),
        (Lambda(lambda self, x: x.view(x.size(1), -1)), "'view'"),
        (Lambda(lambda self, x: F.dropout(x, 0.5)), "'dropout'"),
        (Lambda(lambda self, x: x.mean((2, 3), dtype=torch.float64)), "'mean'"),
        (Lambda(lambda self, x: torch.add(x, x, alpha=2)), "'add'"),
        (Lambda(lambda self, x: x + torch.rand(4)), "'add'"),
        (Lambda(lambda self, x: F.linear(torch.ones(2, 16), x.flatten(1))), "'linear'"),
        (Lambda(lambda self, x: x if x.sum() > 0 else -x), "'sum'"),
        (Lambda(lambda self, x: x.to(x.device)), "'to'"),
        (Lambda(lambda self, x: torch.ones(1, 3)), "computed from the images"),
        (nn.Linear(7, 3), r"images of shape \(1, 4, 4\)"),
        (weight_norm(nn.Linear(4, 3)), "computes weights.*remove_parametrizations"),
        (nn.ReLU(inplace=True), "'relu' in place.*inplace=True"),
        (Lambda(lambda self, x: F.relu(x, True)), "'relu' in place"),
        (Lambda(lambda self, x: x.relu_() + x), "'relu_' in place"),
        (Lambda(lambda self, x: x.view(-1, 16).mul_(2)), "'mul_' in place"),
        (Lambda(in_place), "'add_' in place"),
    ],
)
def test_what_has_no_bound_is_named(layer: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_network(Classifier(layer, 3, has_null=False).eval(), (1, 4, 4))


def test_batch_norm_in_training_is_refused() -> None:
    model = Classifier(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2)), 2, has_null=False)
    with pytest.raises(UserError, match="'1' is batch norm in training mode"):
        read_network(model.train(), (1, 1, 2))
    assert all(module.training for module in model.modules())


def test_the_network_is_compared_with_the_model() -> None:
    shape = (1, 2, 4)
    wrong = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(8, 4)), 3, has_null=False)
    random = Lambda(lambda self, x: self.linear(x.flatten(1)) + float(torch.rand(())))
    mixing = Lambda(lambda self, x: self.linear(x.flatten(1).view(2, -1)))
    for model, message in (
        (wrong, "num_classes"),
        (Classifier(random, 3, has_null=False), "random numbers"),
        (Classifier(mixing, 3, has_null=False), "be bounded on images"),
    ):
        with pytest.raises(UserError, match=message):
            read_network(model, shape)
    with pytest.raises(UserError, match="use the classifier inside"):
        read_network(ProvableNull(tiny_net(0), 0.1), (1, 1, 2))
    with pytest.raises(UserError, match="float32 or float64"):
        read_network(tiny_net(0).half(), (1, 1, 2))


def test_machines_without_exact_float32_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA, and a CPU without oneDNN, compute in float64; other devices are refused."""
    cpu = torch.device("cpu")
    assert proof_dtype(cpu, torch.float32) == torch.float32
    assert proof_dtype(torch.device("cuda"), torch.float32) == torch.float64
    with pytest.raises(UserError, match="mps"):
        proof_dtype(torch.device("mps"), torch.float32)
    _, network = read(small_model(nn.ReLU(), seed=0))
    images, spec = random_images(2, 0), random_spec(2, 0)
    for verifier in VERIFIERS.values():
        bounds = verifier(network, images, 0.1, "linf")(spec)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(verifier(network, images, 0.1, "linf")(spec), bounds)
        with torch.backends.mkldnn.flags(enabled=False):
            assert proof_dtype(cpu, torch.float32) == torch.float64
            double = verifier(network, images, 0.1, "linf")(spec)
        torch.testing.assert_close(double, bounds, rtol=0, atol=1e-3)
        before = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("medium")
            with pytest.raises(UserError, match="fewer bits"):
                verifier(network, images, 0.1, "linf")(spec)
        finally:
            torch.set_float32_matmul_precision(before)
        for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
            with monkeypatch.context() as patched:
                patched.setenv(name, "bf16")
                with pytest.raises(UserError, match="fewer bits"):
                    verifier(network, images, 0.1, "linf")(spec)
                patched.setenv(name, "STRICT")
                assert torch.equal(verifier(network, images, 0.1, "linf")(spec), bounds)


@pytest.mark.parametrize(
    ("radius", "norm", "message"),
    [
        (-0.1, "linf", "from 0 to 1"),
        (1.5, "linf", "from 0 to 1"),
        (0.1, "l1", "'l1'"),
        (float("nan"), "l2", "above 0"),
    ],
)
def test_invalid_balls_and_verifiers_are_refused(radius: float, norm: str, message: str) -> None:
    _, network = read(small_model(nn.ReLU(), seed=0))
    for verifier in VERIFIERS.values():
        with pytest.raises(UserError, match=message):
            verifier(network, random_images(1, 0), radius, norm)(random_spec(1, 0))
    with pytest.raises(UserError, match="verifier must be one of interval, crown-ibp, cascade"):
        find_verifier("magic")
