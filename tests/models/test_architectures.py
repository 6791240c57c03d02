"""One contract for every network, and the two sources' networks, layer by layer."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nullclass.core.errors import UserError
from nullclass.models import ARCHITECTURES, Classifier, build_model
from nullclass.models.dropout import Dropout
from nullclass.training.card import Origin
from nullclass.training.checkpoint import load_checkpoint, save_checkpoint

MNIST_SHAPE = (1, 28, 28)


def build(name: str, *, seed: int = 0, **changed: object) -> Classifier:
    settings = {"image_shape": MNIST_SHAPE, "num_classes": 10, "mean": (0.1307,), "std": (0.3081,)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(name, **(settings | changed))  # type: ignore[arg-type]


def some_images(num: int = 5, shape: tuple[int, int, int] = MNIST_SHAPE) -> Tensor:
    return torch.rand(num, *shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("has_null", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outputs_are_k_or_k_plus_one(name: str, has_null: bool) -> None:
    small = (1, *ARCHITECTURES[name].smallest)
    for shape in (MNIST_SHAPE, (3, 9, 12), small):
        model = build(name, has_null=has_null, image_shape=shape, num_classes=7)
        images = some_images(4, shape)
        assert model(images).shape == (4, 7 + has_null)
        assert model.num_outputs == 7 + has_null
        assert (model.num_classes, model.has_null, model.architecture) == (7, has_null, name)
        assert model.image_shape == shape
        predicted = model.predict(images)
        assert predicted.dtype == torch.int64
        assert not predicted.requires_grad
        assert ((predicted >= -int(has_null)) & (predicted < 7)).all()
    channels, height, width = small
    for shape in ((channels, height - 1, width), (channels, height, width - 1)):
        with pytest.raises(UserError, match="too small"):
            build(name, image_shape=shape)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_null_logits_per_class_are_more_outputs_of_the_same_network(name: str) -> None:
    per_class, one = build(name, num_nulls=10), build(name)
    assert (per_class.num_nulls, per_class.num_outputs, per_class.has_null) == (10, 11, True)
    images = some_images(4)
    assert per_class.all_logits(images).shape == (4, 20)
    assert per_class(images).shape == (4, 11)
    shapes = {key: value.shape for key, value in one.state_dict().items()}
    for key, value in per_class.state_dict().items():
        assert value.shape == shapes[key] or key.startswith("body.output")
    without = build(name, has_null=False, num_nulls=10)
    assert without.num_nulls == 0
    assert without(images).shape == (4, 10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_checkpoints_and_seeds(name: str, tmp_path: Path) -> None:
    for has_null in (False, True):
        model, other = build(name, has_null=has_null).eval(), build(name, seed=1).eval()
        save_checkpoint(model, tmp_path, origin=Origin(data="mnist"))
        state = torch.get_rng_state()
        loaded, card = load_checkpoint(tmp_path)
        assert torch.equal(torch.get_rng_state(), state)
        assert not loaded.training
        again = build(name, has_null=has_null)
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key
            assert torch.equal(again.state_dict()[key], value), key
        assert torch.equal(loaded(some_images()), model(some_images()))
        assert not torch.equal(other(some_images())[:, :10], model(some_images())[:, :10])
        assert card.origin.data == "mnist"
        assert card.num_nulls == int(has_null)
        assert card.num_parameters == sum(p.numel() for p in model.parameters())
        assert card.architecture == name


SHAPES = {
    "notebook": {
        "conv1.weight": (32, 1, 3, 3),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 3, 3),
        "conv2.bias": (64,),
        "hidden.weight": (128, 12544),
        "hidden.bias": (128,),
        "output.weight": (11, 128),
        "output.bias": (11,),
    },
    "report": {
        "conv1.weight": (32, 1, 3, 3),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 3, 3),
        "conv2.bias": (64,),
        "hidden.weight": (128, 9216),
        "hidden.bias": (128,),
        "output.weight": (11, 128),
        "output.bias": (11,),
    },
    "ramp": {
        "conv1.weight": (8, 1, 1, 2),
        "conv1.bias": (8,),
        "conv2.weight": (16, 8, 1, 2),
        "conv2.bias": (16,),
        "hidden.weight": (32, 32),  # 16 channels of 2 pixels, after pooling with stride 1
        "hidden.bias": (32,),
        "output.weight": (3, 32),
        "output.bias": (3,),
    },
}


RAMP = {"image_shape": (1, 1, 3), "num_classes": 2}
SETTINGS = {"notebook": {}, "report": {}, "ramp": RAMP}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_source(name: str) -> None:
    body = build(name, **SETTINGS[name]).body
    assert {key: tuple(value.shape) for key, value in body.state_dict().items()} == SHAPES[name]


def test_the_ramp_network_is_that_of_the_source() -> None:
    model = build("ramp", **RAMP).eval()
    images = some_images(6, (1, 1, 3))
    weights = model.state_dict()

    def convolve(rows: Tensor, name: str) -> Tensor:
        """Width 2, "same": in Keras a pixel and the one to its right."""
        kernel, bias = weights[f"body.{name}.weight"][:, :, 0], weights[f"body.{name}.bias"]
        right = torch.cat([rows[:, :, 1:], torch.zeros(len(rows), rows.shape[1], 1)], dim=2)
        out = torch.einsum("ncw,oc->now", rows, kernel[:, :, 0])
        out = out + torch.einsum("ncw,oc->now", right, kernel[:, :, 1]) + bias[None, :, None]
        return out.clamp(min=0)

    hidden = convolve(convolve(images[:, :, 0], "conv1"), "conv2")
    pooled = torch.maximum(hidden[:, :, :-1], hidden[:, :, 1:]).flatten(1)
    after = pooled @ weights["body.hidden.weight"].T + weights["body.hidden.bias"]
    output = after.clamp(min=0) @ weights["body.output.weight"].T + weights["body.output.bias"]
    torch.testing.assert_close(model(images), output, atol=1e-6, rtol=1e-5)


def test_settings_of_the_sources() -> None:
    dropouts = {
        name: [m.p for m in build(name).modules() if isinstance(m, Dropout | nn.Dropout)]
        for name in SHAPES
    }
    assert dropouts == {"notebook": [], "report": [0.25, 0.5], "ramp": [0.25, 0.5]}
    for name in ("report", "ramp"):
        assert (build(name).mean.item(), build(name).std.item()) == (0, 1)
    assert build("notebook").mean.item() == pytest.approx(0.1307)
    assert build("notebook").std.item() == pytest.approx(0.3081)
    with pytest.raises(UserError, match=r"the model must be one of notebook, .* not 'resnet'"):
        build("resnet")


@pytest.mark.parametrize("name", ["report", "ramp"])
def test_initial_weights_of_the_report_are_glorot_uniform(name: str) -> None:
    body = build(name).body
    for layer in body:
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        field = math.prod(layer.weight.shape[2:])
        fan_in, fan_out = layer.weight.shape[1] * field, layer.weight.shape[0] * field
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.85 * bound < layer.weight.abs().max() <= bound
        if layer.weight.numel() > 100:  # fewer say little about their distribution
            assert layer.weight.abs().max() > 0.95 * bound
            spread = float(layer.weight.detach().std())
            assert spread == pytest.approx(bound / math.sqrt(3), rel=0.12), "uniform"
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_initial_weights_of_the_notebook_are_those_of_torch() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        plain = [
            nn.Conv2d(1, 32, 3, padding=1),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.Linear(12544, 128),
            nn.Linear(128, 11),
        ]
    layers = [m for m in build("notebook", seed=5).body if isinstance(m, nn.Conv2d | nn.Linear)]
    for ours, theirs in zip(layers, plain, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("name", ["notebook", "report"])
def test_pooling_first_is_the_same_function_with_the_same_gradient(name: str) -> None:
    model = build(name).eval()
    order = ["conv1", "relu1", "conv2", "relu2", "pool", "dropout1", "flatten", "hidden", "relu3"]
    order += ["dropout2", "output"]
    layers = dict(copy.deepcopy(model.body).named_children())
    source = nn.Sequential(*[layers[layer] for layer in order if layer in layers])
    assert len(source) == len(layers)
    images, labels = some_images(8), torch.arange(8)
    gradients = []
    for net in (model.body, source):
        x = ((images - model.mean) / model.std).requires_grad_()
        logits = net(x)
        nn.functional.cross_entropy(logits, labels).backward()
        gradients.append((logits.detach(), x.grad, [p.grad for p in net.parameters()]))
    (ours, our_x, our_p), (theirs, their_x, their_p) = gradients
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(our_x, their_x, atol=1e-6, rtol=1e-5)
    for one, other in zip(our_p, their_p, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
