"""Networks of any kind: modules and functions, all types, all kinds of output, scores."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import nullclass
from nullclass.attacks import PGD
from nullclass.core.errors import UserError
from nullclass.models import Classifier, Imported, as_classifier
from nullclass.models.classifier import check_network
from nullclass.models.network import are_probabilities
from nullclass.rejection import calibrate, null_scores, with_threshold

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def network(dtype: torch.dtype = torch.float32, num_outputs: int = 3) -> nn.Module:
    """A linear network of images of four pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, num_outputs)).to(dtype)


def some_images(num: int = 8) -> Tensor:
    return torch.rand(num, 1, 2, 2, generator=torch.Generator().manual_seed(1))


def traced(module: Any) -> Any:
    dtype = next(module.parameters()).dtype
    return torch.jit.trace(module, some_images().to(dtype))


def exported(module: nn.Module) -> nn.Module:
    images = some_images().to(next(module.parameters()).dtype)
    batch = torch.export.Dim("batch")
    return torch.export.export(module, (images,), dynamic_shapes=({0: batch},)).module()


class Owner:
    """An object that is called, and has a method."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, images: Tensor) -> Tensor:
        return self.module(images)

    def logits(self, images: Tensor) -> Tensor:
        return self.module(images)


FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda module: module,
    "lambda": lambda module: lambda images: module(images),
    "partial of a module": partial,
    "partial of a function": lambda module: partial(lambda inner, images: inner(images), module),
    "method of a module": lambda module: module.forward,
    "method of an object": lambda module: Owner(module).logits,
    "object": Owner,
    "data parallel": nn.DataParallel,
    "traced": traced,
    "scripted": torch.jit.script,
    "traced and frozen": lambda module: torch.jit.freeze(traced(module.eval())),
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "compiled function": lambda module: torch.compile(
        lambda images: module(images), backend="eager"
    ),
    "exported": exported,
}
SLOW = ("compiled", "compiled function", "exported")
"""They load torch's compiler, which takes seconds."""

HIDDEN = ("traced and frozen",)
"""Their weights are constants, so that their type is unknown."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=pytest.mark.slow) if f in SLOW else f for f in FORMS]
)
def test_every_form_and_type(form: str, dtype: torch.dtype) -> None:
    body, images = network(dtype), some_images()
    if form in HIDDEN and dtype != torch.float32:
        pytest.skip("the type of its weights is unknown")
    expected = body(images.to(dtype)).to(torch.promote_types(dtype, torch.float32))
    model = as_classifier(FORMS[form](body), 2, images)
    assert model.has_null
    given = images.clone().requires_grad_()
    logits = model(given)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    logits.sum().backward()
    assert given.grad is not None
    assert given.grad.any()
    assert len(list(model.parameters())) == (0 if form in HIDDEN else 2)
    labels = torch.arange(8) % 2
    data = images, labels
    options: dict[str, Any] = {"attacks": {"pgd": PGD(num_steps=2)}, "eps": 0.3, "checks": False}
    found = nullclass.evaluate(FORMS[form](body), data, num_classes=2, **options)
    by_hand = nullclass.evaluate(Classifier(body, 2), data, **options)
    assert found.rows["outcome"].equals(by_hand.rows["outcome"])


class Named(NamedTuple):
    """As GoogLeNet's output in training."""

    logits: Tensor
    aux_logits1: Tensor | None


class ModelOutput(OrderedDict[str, Any]):
    """As in transformers."""

    @property
    def logits(self) -> Tensor:
        return self["logits"]


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda logits: logits,
    "tuple": lambda logits: (logits, None),
    "list": lambda logits: [logits],
    "dictionary": lambda logits: {"loss": None, "logits": logits},
    "object": lambda logits: SimpleNamespace(logits=logits),
    "named tuple": lambda logits: Named(logits, None),
    "model output": lambda logits: ModelOutput(loss=logits.sum(), logits=logits),
}


class Returns(nn.Module):
    """A network that returns its logits in some form."""

    def __init__(self, module: nn.Module, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.module, self.output = module, output

    def forward(self, images: Tensor) -> Any:
        return self.output(self.module(images))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output_and_type(output: str, dtype: torch.dtype) -> None:
    body, images = Returns(network(dtype), OUTPUTS[output]), some_images()
    expected = body.module(images.to(dtype)).to(torch.promote_types(dtype, torch.float32))
    for each in (body, lambda images: body(images), nn.DataParallel(body)):
        for model in (Classifier(each, 2), as_classifier(each, 2, images)):
            assert torch.equal(model(images), expected)


@pytest.mark.parametrize("output", [None, {}, (), "logits", {"logits": None}, [1.0]])
def test_outputs_without_logits(output: Any) -> None:
    for use in (lambda images: output, Returns(network(), lambda logits: output)):
        with pytest.raises(UserError, match="without logits: return a tensor, a tuple"):
            Classifier(use, 2)(some_images())


# Functions


def test_modules_of_a_function_are_evaluated_and_keep_their_mode() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)).train()
    model = Classifier(lambda images: body(images - 0.5), 2)
    before = repr(model)
    data = some_images(), torch.zeros(8, dtype=torch.int64)
    options: dict[str, Any] = {"attacks": "fgsm", "eps": 0.1, "checks": False}
    first, second = (nullclass.evaluate(model, data, **options).rows for _ in range(2))
    assert first["loss"].equals(second["loss"]), "without dropout"
    assert body.training
    assert all(parameter.requires_grad for parameter in body.parameters())
    assert repr(Classifier(lambda images: body(images - 0.5), 2)) == before, "no addresses"
    state = model.state_dict()
    assert torch.equal(state["body.used.0.2.weight"], body[2].weight)


def test_functions_have_no_layer_to_widen() -> None:
    for network_ in (network().forward, Classifier(network().forward, 3, has_null=False)):
        with pytest.raises(UserError, match="a function has no layer to widen"):
            nullclass.with_null_class(network_)  # type: ignore[arg-type]


# What cannot be evaluated


def in_place(images: Tensor) -> Tensor:
    images -= 0.5
    return images.flatten(1)[:, :3]


def raises(images: Tensor) -> Tensor:
    raise KeyError("no such\nlayer")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (in_place, "changes its input in place: write x = x - m for x -= m"),
        (Returns(nn.Flatten(), lambda x: x[:, :3].clamp_(0.4)), "in place"),
        (nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 3)), None),
        (nn.Sequential(nn.Hardtanh(-0.1, 0.1, inplace=True), network()), "in place"),
        (raises, r"fails on images of shape \(8, 1, 2, 2\) \(KeyError: 'no such.*layer'\)"),
        (nn.Linear(9, 3), r"fails on images .* \(RuntimeError: .*shapes cannot be multiplied"),
        (lambda images: images.sum(), "has 0 logits"),
        (lambda images: images.flatten(1)[:, :1], "has 1 logits"),
        (lambda images: images.flatten(0)[None, :3], "1, 3.*for 8 images"),
        (Returns(network(), lambda z: z.softmax(1)), "outputs are probabilities .* remove its"),
        (Returns(network(num_outputs=2), lambda z: z.softmax(1)), "none of them is null"),
        (Returns(network(num_outputs=2), lambda z: (z, z[:, 0])), "has_score=True if its score"),
    ],
)
def test_networks_that_cannot_be_evaluated(body: Any, says: str | None) -> None:
    data = some_images(), torch.arange(8) % 2
    before = data[0].clone()

    def run() -> object:
        options: dict[str, Any] = {"attacks": "fgsm", "eps": 0.1, "checks": False}
        return nullclass.evaluate(body, data, num_classes=2, **options)

    if says is None:
        run()
    else:
        with pytest.raises(UserError, match=says):
            run()
    assert torch.equal(data[0], before)


def test_logits_that_are_not_finite() -> None:
    body = Returns(network(), lambda logits: logits / 0)
    data = some_images(), torch.arange(8) % 2
    with pytest.raises(UserError, match="logits are not finite"):
        nullclass.evaluate(body, data, num_classes=2, attacks="fgsm", eps=0.1)


def test_logits_that_are_complex() -> None:
    body = Returns(network(), lambda logits: torch.complex(logits, logits))
    data = some_images(), torch.arange(8) % 2
    for model, more in ((body, {"num_classes": 2}), (Classifier(body, 2), {})):
        with pytest.raises(UserError, match=r"logits of torch\.complex64: return real numbers"):
            nullclass.evaluate(model, data, attacks="fgsm", eps=0.1, **more)


# Networks that standardise outside


def test_standardisation_and_outputs_of_a_network_in_evaluate() -> None:
    body, data = network(), (some_images(), torch.arange(8) % 2)
    softmax = Returns(body, lambda logits: logits.softmax(dim=1))
    given: dict[str, Any] = {"mean": 0.4, "std": [0.2], "outputs": "probabilities"}
    wrapped = Classifier(softmax, 2, **given)
    options: dict[str, Any] = {"attacks": "fgsm", "eps": 0.1, "checks": False}
    expected = nullclass.evaluate(wrapped, data, **options)
    found = nullclass.evaluate(softmax, data, num_classes=2, **given, **options)
    pd.testing.assert_frame_equal(found.rows, expected.rows)
    plain = nullclass.evaluate(body, data, num_classes=2, **options)
    assert not plain.rows["null_score"].equals(expected.rows["null_score"])
    for name, value in given.items():
        with pytest.raises(UserError, match=f"a Classifier, which has its own {name}: leave that"):
            nullclass.evaluate(wrapped, data, **options, **{name: value})


# Probabilities


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_outputs", [2, 11, 1000])
def test_softmax_is_recognised(dtype: torch.dtype, num_outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1, 10, 100):
        logits = scale * torch.randn(16, num_outputs, generator=generator, dtype=torch.float64)
        logits = logits.to(dtype)
        assert are_probabilities(logits.softmax(dim=1)), scale
        assert not are_probabilities(logits)
        assert not are_probabilities(logits.log_softmax(dim=1))
        one = logits.softmax(dim=1)[:1]
        is_saturated = bool(((one == 0) | (one == 1)).all())
        assert are_probabilities(one) != is_saturated, "one image"
        assert are_probabilities(one.expand(16, -1)) != is_saturated, "a constant"
        assert not are_probabilities(logits.abs())
        assert not are_probabilities(logits.softmax(dim=1) + 0.01)
    decisions = torch.eye(num_outputs, dtype=dtype)[:16]
    assert not are_probabilities(decisions), "a model that gives nothing away but its answer"
    assert not are_probabilities(decisions[:1])
    assert not are_probabilities(torch.zeros(1, num_outputs, dtype=dtype))


def test_probabilities_in_a_classifier_are_refused_or_converted() -> None:
    body, images = network(), some_images()
    softmax = Returns(body, lambda logits: logits.softmax(dim=1))
    data = images, torch.arange(8) % 2
    options: dict[str, Any] = {"attacks": {"pgd": PGD()}, "eps": 0.3, "checks": False}
    for refused in (Classifier(softmax, 2), with_threshold(Classifier(softmax, 2), 0.5)):
        with pytest.raises(UserError, match='outputs="probabilities"'):
            nullclass.evaluate(refused, data, **options)
    with pytest.raises(UserError, match='outputs="probabilities"'):
        PGD()(softmax, images, data[1], eps=0.1, num_classes=2)
    converted = Classifier(softmax, 2, outputs="probabilities")
    torch.testing.assert_close(converted(images), body(images).log_softmax(dim=1))
    rows, plain = (
        nullclass.evaluate(model, data, **options).rows
        for model in (converted, Classifier(body, 2))
    )
    assert rows["outcome"].equals(plain["outcome"])
    with pytest.raises(UserError, match="are negative, so they are no probabilities"):
        check_network(Classifier(body, 2, outputs="probabilities"), images)
    with pytest.raises(UserError, match="outputs must be one of logits, probabilities"):
        Classifier(body, 2, outputs="sigmoid")  # type: ignore[arg-type]
    one = images[:1], data[1][:1]
    with pytest.raises(UserError, match='outputs="probabilities"'):
        nullclass.evaluate(softmax, one, num_classes=2, **options)
    certain = Classifier(lambda images: torch.eye(3)[:1].expand(8, -1), 2, outputs="probabilities")
    assert certain(images).isfinite().all(), "the logarithm of 0"


# Logits and a score


def scored(images: Tensor) -> tuple[Tensor, Tensor]:
    """Three logits and a score, all of them pixels."""
    pixels = images.flatten(1)
    return pixels[:, :3], pixels[:, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_null_wins_exactly_if_the_score_is_above_the_threshold(
    dtype: torch.dtype, scale: float
) -> None:
    tau = 0.3
    exact = torch.tensor(tau, dtype=dtype)
    one = torch.ones((), dtype=dtype)
    scores = torch.stack(
        [exact, torch.nextafter(exact, one), torch.nextafter(exact, -one), -one, one]
    ).repeat(40)
    logits = scale * torch.rand(200, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    images = torch.cat([logits, scores[:, None]], dim=1).view(200, 1, 2, 2)
    body = Classifier(scored, 3, has_score=True)
    model = with_threshold(body, tau)
    answers = model(images).argmax(dim=1)
    assert torch.equal(answers == 3, scores > exact)
    assert torch.equal(answers[answers < 3], logits.argmax(dim=1)[answers < 3])
    assert torch.equal(body(images).argmax(dim=1) == 3, scores > 0)
    assert torch.equal(null_scores(body(images), 3), scores)


def test_gradients_of_a_score_are_those_of_the_largest_logit_and_the_score() -> None:
    images = torch.tensor([[0.9, 0.2, 0.1, 0.5]]).view(1, 1, 2, 2).requires_grad_()
    model = with_threshold(Classifier(scored, 3, has_score=True), 0.3)
    logits = model(images)
    assert logits.tolist()[0][3] == pytest.approx(0.2)
    for index, expected in ((0, [1, 0, 0, 0]), (2, [0, 0, 1, 0]), (3, [1, 0, 0, 1])):
        (gradient,) = torch.autograd.grad(logits[0, index], images, retain_graph=True)
        assert gradient.flatten().tolist() == expected


@pytest.mark.parametrize(
    "output",
    [
        lambda logits, score: (logits, score),
        lambda logits, score: {"score": score, "logits": logits},
        lambda logits, score: SimpleNamespace(logits=logits, score=score),
    ],
)
def test_scores_are_evaluated_and_calibrated(output: Any) -> None:
    def body(images: Tensor) -> Any:
        return output(*scored(images))

    images = some_images(40)
    data = images, torch.arange(40) % 3
    model = Classifier(body, 3, has_score=True)
    threshold = calibrate(model, data, 0.1)
    clean = nullclass.evaluate(
        body, data, num_classes=3, has_score=True, threshold=threshold, attacks="fgsm", eps=0.1,
        checks=False,
    )  # fmt: skip
    is_null = images.flatten(1)[:, 3] > threshold.value
    assert clean.rate("null_rate") == int(is_null.sum()) / 40 > 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda images: scored(images)[0], "returns no score, but has_score needs"),
        (lambda images: (scored(images)[0], scored(images)[1][:, None]), r"score of shape \(8, 1"),
        (lambda images: (scored(images)[0], 0.5), "returns no score"),
        (lambda images: (images.flatten(1), scored(images)[1]), "has_score=True need 3"),
    ],
)
def test_bodies_without_a_usable_score(body: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        as_classifier(body, 3, some_images(), has_score=True)


def test_scores_have_no_bounds_and_one_null() -> None:
    with pytest.raises(UserError, match="a model with a score has one null"):
        Classifier(scored, 3, has_score=True, has_null=False)
    with pytest.raises(UserError, match="without a score or softmax"):
        nullclass.prove(
            Classifier(scored, 3, has_score=True), (some_images(), torch.zeros(8).long()), 0.1
        )


# Networks that a function builds


@pytest.fixture
def builders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder; returns its name."""
    (tmp_path / "nets_of_test.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def build(width=3):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(4, width))\n"
        "def function():\n"
        "    return lambda images: images.flatten(1)[:, :3]\n"
        "def number():\n"
        "    return 3\n"
        "def a_class():\n"
        "    return nn.Linear\n"
        "def fails():\n"
        "    raise FileNotFoundError('no\\nweights')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nets_of_test", raising=False)
    return "nets_of_test"


def test_a_network_that_a_function_builds(builders: str) -> None:
    imported = Imported(f"{builders}:build", {"width": 4})
    model = Classifier(imported, 3)
    assert model.imported == imported
    assert model(some_images()).shape == (8, 4)
    assert as_classifier(imported, 4, some_images()).has_null is False
    assert as_classifier(Imported(f"{builders}:function"), 2, some_images()).has_null


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("number", "number returns a int: let it return a torch.nn.Module"),
        ("a_class", "a_class returns the class Linear"),
        ("fails", "fails failed .FileNotFoundError: no weights"),
        ("missing", "no function missing"),
    ],
)
def test_functions_that_build_no_network(builders: str, function: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Classifier(Imported(f"{builders}:{function}"), 2)


def test_arguments_of_a_builder_are_json_values() -> None:
    with pytest.raises(UserError, match="arguments must hold JSON values"):
        Imported("a:b", {"net": nn.Linear(2, 2)})
