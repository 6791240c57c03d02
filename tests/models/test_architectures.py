"""One contract for every network, and the two sources' networks exactly as they were."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from nullclass.core.errors import UserError
from nullclass.models import ARCHITECTURES, Classifier, build_model
from nullclass.models.dropout import Dropout
from nullclass.training.checkpoint import load_checkpoint, save_checkpoint

MNIST_SHAPE = (1, 28, 28)


def build(name: str, *, seed: int = 0, **changed: object) -> Classifier:
    settings = {"image_shape": MNIST_SHAPE, "num_classes": 10, "mean": (0.1307,), "std": (0.3081,)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(name, **(settings | changed))  # type: ignore[arg-type]


def some_images(num: int = 5, shape: tuple[int, int, int] = MNIST_SHAPE) -> Tensor:
    return torch.rand(num, *shape, generator=torch.Generator().manual_seed(3))


SIZES = [(name, shape) for name in ARCHITECTURES for shape in (MNIST_SHAPE, (3, 9, 12), (1, 6, 6))]


@pytest.mark.parametrize("has_null", [False, True])
@pytest.mark.parametrize(("name", "shape"), [*SIZES, ("ramp", (1, 1, 3))])
def test_outputs_are_k_or_k_plus_one(
    name: str, has_null: bool, shape: tuple[int, int, int]
) -> None:
    model = build(name, has_null=has_null, image_shape=shape, num_classes=7)
    logits = model(some_images(4, shape))
    assert logits.shape == (4, 7 + has_null)
    assert model.num_outputs == 7 + has_null
    assert (model.num_classes, model.has_null, model.architecture) == (7, has_null, name)
    assert model.image_shape == shape
    predicted = model.predict(some_images(4, shape))
    assert predicted.dtype == torch.int64
    assert not predicted.requires_grad
    assert ((predicted >= -int(has_null)) & (predicted < 7)).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_twins_are_more_outputs_of_the_same_network(name: str) -> None:
    twins, one = build(name, num_nulls=10), build(name)
    assert (twins.num_nulls, twins.num_outputs, twins.has_null) == (10, 11, True)
    images = some_images(4)
    assert twins.all_logits(images).shape == (4, 20)
    assert twins(images).shape == (4, 11)
    for (key, ours), theirs in zip(
        twins.state_dict().items(), one.state_dict().values(), strict=True
    ):
        if not key.startswith("body.output"):
            assert ours.shape == theirs.shape
    assert twins.body.output.weight.shape[0] == 20
    without = build(name, has_null=False, num_nulls=10)
    assert without.num_nulls == 0
    assert without(images).shape == (4, 10)


@pytest.mark.parametrize("has_null", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_checkpoint_gives_back_the_same_bits(name: str, has_null: bool, tmp_path: object) -> None:
    model = build(name, has_null=has_null).eval()
    save_checkpoint(model, tmp_path, metadata={"data": "mnist"})  # type: ignore[arg-type]
    stream = torch.get_rng_state()
    loaded, card = load_checkpoint(tmp_path)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), stream), "loading draws from no stream"
    assert torch.equal(loaded(some_images()), model(some_images()))
    assert not loaded.training
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert torch.equal(loaded.mean, model.mean)
    assert torch.equal(loaded.std, model.std)
    assert card["data"] == "mnist"
    assert card["null_index"] == (10 if has_null else None)
    assert card["num_parameters"] == sum(p.numel() for p in model.parameters())
    assert {"versions", "commit", "machine", "weights_sha256", "architecture"} <= set(card)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_seed_builds_the_same_weights(name: str) -> None:
    one, two, other = build(name), build(name), build(name, seed=1)
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key])
    assert not torch.equal(one(some_images()), other(some_images()))


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
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_source(name: str) -> None:
    body = build(name).body
    assert {key: tuple(value.shape) for key, value in body.state_dict().items()} == SHAPES[name]


def test_parameters_of_the_ramp_network_are_those_of_the_source() -> None:
    body = build("ramp", image_shape=(1, 1, 3), num_classes=2).body
    assert {key: tuple(value.shape) for key, value in body.state_dict().items()} == {
        "conv1.weight": (8, 1, 1, 2),
        "conv1.bias": (8,),
        "conv2.weight": (16, 8, 1, 2),
        "conv2.bias": (16,),
        "hidden.weight": (32, 32),  # 16 channels of 2 pixels, after pooling with stride 1
        "hidden.bias": (32,),
        "output.weight": (3, 32),
        "output.bias": (3,),
    }


def test_the_ramp_network_is_the_source_written_plainly() -> None:
    model = build("ramp", image_shape=(1, 1, 3), num_classes=2).eval()
    images = some_images(6, (1, 1, 3))
    weights = model.state_dict()

    def convolve(rows: Tensor, name: str) -> Tensor:
        """Width 2, "same": a Keras convolution looks at a pixel and the one to its right."""
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


def dropouts(name: str) -> list[float]:
    return [m.p for m in build(name).modules() if isinstance(m, Dropout | nn.Dropout)]


def test_dropout_is_the_reports_alone() -> None:
    assert dropouts("notebook") == []
    assert dropouts("report") == [0.25, 0.5]
    assert dropouts("ramp") == [0.25, 0.5], "the report's toy"


@pytest.mark.parametrize("name", ["report", "ramp"])
def test_the_reports_first_weights_are_glorots(name: str) -> None:
    body = build(name).body
    for layer in body:
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        field = math.prod(layer.weight.shape[2:])
        fan_in, fan_out = layer.weight.shape[1] * field, layer.weight.shape[0] * field
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert layer.weight.abs().max() <= bound
        if layer.weight.numel() > 100:  # fewer say little about their distribution
            assert float(layer.weight.detach().std()) == pytest.approx(
                bound / math.sqrt(3), rel=0.12
            ), "uniform"
        assert layer.weight.abs().max() > 0.85 * bound
        if layer.weight.numel() > 100:
            assert layer.weight.abs().max() > 0.95 * bound
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_the_notebooks_first_weights_are_torchs() -> None:
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


@pytest.mark.parametrize("name", SHAPES)
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


def test_only_the_notebook_standardises() -> None:
    assert (build("ramp").mean.item(), build("ramp").std.item()) == (0, 1)
    assert build("notebook").mean.item() == pytest.approx(0.1307)
    assert build("notebook").std.item() == pytest.approx(0.3081)
    assert (build("report").mean.item(), build("report").std.item()) == (0, 1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_images_too_small_are_refused(name: str) -> None:
    height, width = ARCHITECTURES[name].smallest
    build(name, image_shape=(1, height, width))
    for shape in ((1, height - 1, width), (1, height, width - 1)):
        with pytest.raises(UserError, match="too small"):
            build(name, image_shape=shape)
    assert (height, width) == ((1, 2) if name == "ramp" else (6, 6))


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"the model must be one of notebook, .* not 'resnet'"):
        build("resnet")
