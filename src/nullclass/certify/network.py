"""A classifier read as a list of layers there are bounds for, by symbolic tracing (torch.fx).

What cannot be bounded is refused when it is read, with its name: never when half is computed.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from nullclass.certify.layers import Added, Layer, Linear, Monotone, Pooled, Reshaped, Scale
from nullclass.certify.lines import (
    clipped_lines,
    curved_lines,
    leaky_lines,
    pooled_lines,
    sigmoid_slope,
    tanh_slope,
)
from nullclass.certify.rounding import proof_dtype
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.models.dropout import Dropout


@dataclass(frozen=True)
class Step:
    """One layer, and where its inputs come from."""

    name: str
    """Of the module or the function, as in messages."""
    layer: Layer
    inputs: tuple[int, ...]
    """Earlier steps; -1 is the image."""


@dataclass(frozen=True)
class Network:
    """A classifier's body behind its standardisation, layer by layer.

    The weights are the model's own tensors, not copies: train the model, and the bounds follow.
    """

    steps: tuple[Step, ...]
    """In order; the last one gives the logits."""
    last_use: tuple[int, ...]
    """For each step, the last that reads it: then it can be forgotten."""
    num_logits: int
    """L: K, or K + 1 with null; with twins K + K."""

    def run(self, image: Any, each: Callable[[Step, list[Any]], Any], *, num_steps: int) -> Any:
        """Send anything through the first steps, each mapped with its inputs to an output."""
        kept: dict[int, Any] = {-1: image}
        for number, step in enumerate(self.steps[:num_steps]):
            kept[number] = each(step, [kept[place] for place in step.inputs])
            for place in set(step.inputs):
                if place >= 0 and self.last_use[place] == number:
                    del kept[place]
        return kept[num_steps - 1]

    def to(self, dtype: torch.dtype) -> Network:
        """The same network for images of another type; its weights follow no more."""
        steps = tuple(replace(step, layer=step.layer.to(dtype)) for step in self.steps)
        return replace(self, steps=steps)

    def values(self, images: Tensor) -> Tensor:
        """The logits ``(N, K + num_nulls)``, as the model computes them."""
        logits: Tensor = self.run(
            images, lambda step, inputs: step.layer.value(*inputs), num_steps=len(self.steps)
        )
        return logits


def read_network(model: Classifier) -> Network:
    """Read a model's layers, in evaluation mode.

    Where the model's ``image_shape`` is known, what was read is held against the model itself
    (:func:`check_reading`).

    Raises:
        UserError: If a layer or a function has no bound here, an activation is changed in place
            while it is still needed, the forward pass hangs on the values of its input or on more
            than images, the model is neither float32 nor float64, or what was read does not compute
            what the model does; the message names it.
    """
    _check_numbers(model)
    for name, module in model.body.named_modules():
        if is_parametrized(module):
            raise UserError(
                f"layer {name!r} ({type(module).__name__}) has parametrised weights, which bounds "
                "would not follow: call torch.nn.utils.parametrize.remove_parametrizations first"
            )
        if module._forward_hooks or module._forward_pre_hooks:
            raise UserError(
                f"layer {name!r} ({type(module).__name__}) has a hook, which bounds would not see: "
                "remove it first"
            )
        if isinstance(module, _BATCH_NORMS) and module.training:
            raise UserError(
                f"layer {name!r} is batch norm in training mode, whose output hangs on the whole "
                "batch: put the model into evaluation mode first, or train a network without "
                "batch norm"
            )
    with _in_evaluation(model):
        network = _read(model)
        if model.image_shape is not None:
            check_reading(network, model, model.image_shape)
    return network


def check_reading(network: Network, model: Classifier, image_shape: Sequence[int]) -> None:
    """Refuse a network that computes something else than its model, on one random image.

    Raises:
        UserError: If the two differ by more than they round, or one of them cannot be computed.
    """
    dtype = next(model.body.parameters(), model.mean).dtype
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, *image_shape), generator=generator).to(model.mean.device, dtype)
    quiet = torch.random.fork_rng(devices=[])
    plain = torch.autocast(image.device.type, enabled=False)
    with _in_evaluation(model), torch.no_grad(), quiet, plain:
        try:
            told = [model.all_logits(image.clone()) for _ in range(2)]
            found = [network.values(image.clone()) for _ in range(2)]
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the network cannot be bounded on images of shape {tuple(image_shape)} ({error}): "
                "give images, and an image_shape, that the model takes"
            ) from None
    size = max(1.0, float(told[0].abs().nan_to_num(0, 0, 0).max()))
    apart = (1e-3 if dtype == torch.float32 else 1e-9) * size
    for one, other in zip((*told, told[0]), (*found, told[1]), strict=True):
        if one.shape != other.shape or not torch.allclose(one, other, 0, apart, equal_nan=True):
            raise UserError(
                "the network computes other logits than were read from its forward pass, layer by "
                "layer: write it as layers and functions of one image batch, without changing "
                "anything in place or drawing anything at random"
            )


def _check_numbers(model: Classifier) -> None:
    """Refuse devices and types without bounds."""
    for tensor in (model.mean, *model.body.parameters()):
        proof_dtype(tensor.device, tensor.dtype)
        if tensor.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"bounds are of models in float32 or float64, and this one has {tensor.dtype}: "
                "call model.float() first"
            )


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode for as long as it is looked at."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _read(model: Classifier) -> Network:
    try:
        graph = _Tracer().trace(model.body)
    except Exception as error:
        raise UserError(
            f"the network cannot be read layer by layer ({error}): its forward pass must not hang "
            "on the values of its input"
        ) from None
    steps: list[Step] = [Step("standardisation", _standardisation(model), (-1,))]
    places: dict[fx.Node, int] = {}
    memory = _Memory()
    for node in graph.nodes:
        if node.op == "placeholder":
            if places:
                raise UserError(
                    f"the network's forward pass takes {node.name!r} beside the images: bounds are "
                    "of functions of images alone"
                )
            places[node] = 0
            memory.owns(node)
        elif node.op == "output":
            (result,) = node.args
            if not isinstance(result, fx.Node) or places.get(result) != len(steps) - 1:
                raise UserError(
                    "the network must return its logits, and compute nothing after them"
                )
        elif node.op != "get_attr" and not _is_size(node):
            layer, inputs = _layer_of(node, model.body)
            is_in_place = _is_in_place(node, model.body)
            if is_in_place and memory.is_read_after(node, inputs[0]):
                raise UserError(
                    f"layer {_name(node)!r} changes its input in place, and that is read again "
                    "later: use it without inplace"
                )
            if is_in_place or isinstance(layer, Reshaped):
                memory.shares(node, inputs[0])
            else:
                memory.owns(node)
            steps.append(Step(_name(node), layer, tuple(places[given] for given in inputs)))
            places[node] = len(steps) - 1
    last = list(range(len(steps)))
    for number, step in enumerate(steps):
        for place in step.inputs:
            if place >= 0:
                last[place] = number
    return Network(tuple(steps), tuple(last), model.num_classes + model.num_nulls)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Torch's own layers and our dropout are not looked into."""
        return isinstance(m, Dropout) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Activations that tell ``x += y`` from ``x = x + y``."""
        return _Activation(node, self)


class _Activation(fx.Proxy):
    """A traced activation; torch's own takes ``+=`` for ``+``, which leaves its input alone."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.itruediv, other)

    def _changed(self, function: Callable[..., Any], other: Any) -> fx.Proxy:
        changed: fx.Proxy = self.tracer.create_proxy("call_function", function, (self, other), {})
        return changed


class _Memory:
    """Which activations may lie in the same memory: a view, or what was changed in place."""

    def __init__(self) -> None:
        self._sharing: dict[fx.Node, list[fx.Node]] = {}
        self._order: dict[fx.Node, int] = {}

    def owns(self, node: fx.Node) -> None:
        """It has memory of its own."""
        self._sharing[node] = [node]
        self._order[node] = len(self._order)

    def shares(self, node: fx.Node, given: fx.Node) -> None:
        """It may lie where ``given`` does."""
        self._sharing[node] = self._sharing[given]
        self._sharing[node].append(node)
        self._order[node] = len(self._order)

    def is_read_after(self, node: fx.Node, given: fx.Node) -> bool:
        """Whether anything that lies where ``given`` does is read by another node still to come.

        (Nodes still to come are those not told of yet.)
        """
        readers = {reader for each in self._sharing[given] for reader in each.users}
        return any(
            reader is not node and reader not in self._order and not _is_size(reader)
            for reader in readers
        )


def _standardisation(model: Classifier) -> Layer:
    scale = (1 / model.std.double())[None]
    shift = -model.mean.double()[None] * scale
    return Scale(scale, shift, shift.abs())


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else str(node.name)


def _layer_of(node: fx.Node, body: nn.Module) -> tuple[Layer, list[fx.Node]]:
    """The layer of a node, and the nodes it reads."""
    if node.op == "call_module":
        module = body.get_submodule(str(node.target))
        layer = _of_module(module)
        if len(node.args) + len(node.kwargs) != 1 or len(node.all_input_nodes) != 1:
            raise UserError(
                f"layer {node.target!r} ({type(module).__name__}) must be given one activation "
                "and nothing else"
            )
        if layer is None:
            raise UserError(
                f"layer {node.target!r} ({type(module).__name__}) has no bound here: known are "
                f"{KNOWN}"
            )
        inputs = node.all_input_nodes
        if inputs[0].op == "get_attr" or _is_size(inputs[0]):
            raise UserError(
                f"layer {node.target!r} ({type(module).__name__}) must be given an activation"
            )
        return layer, inputs
    if not node.args and "input" in node.kwargs:
        named = dict(node.kwargs)
        node.args, node.kwargs = (named.pop("input"),), named
    layer = _of_function(node)
    inputs = _inputs(node)
    if layer is None or len(inputs) != (2 if isinstance(layer, Added) else 1):
        told = _called_name(node)
        raise UserError(
            f"the function {told!r} ({node.name}) has no bound here as it is called: known are "
            f"{KNOWN}"
        )
    return layer, inputs


def _is_in_place(node: fx.Node, body: nn.Module) -> bool:
    """Whether it writes to the activation it reads first."""
    if node.op == "call_module":
        return bool(getattr(body.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    target: Any = node.target
    if target in (operator.iadd, operator.isub, operator.imul, operator.itruediv):
        return True
    return str(getattr(target, "__name__", "")).endswith("_") or bool(
        _settings(node).get("inplace", False)
    )


def _settings(node: fx.Node) -> dict[str, Any]:
    """A function's arguments by name; those given by place too, where its signature is known."""
    target: Any = node.target
    try:
        return dict(inspect.signature(target).bind(*node.args, **node.kwargs).arguments)
    except (TypeError, ValueError):  # built in
        return dict(node.kwargs)


def _inputs(node: fx.Node) -> list[fx.Node]:
    """The activations that a node reads."""
    return [
        given
        for given in node.args
        if isinstance(given, fx.Node) and given.op != "get_attr" and not _is_size(given)
    ]


def _called_name(node: fx.Node) -> str:
    if node.target is F.max_pool2d:  # torch wraps it
        return "max_pool2d"
    return getattr(node.target, "__name__", str(node.target))


def _is_size(node: fx.Node) -> bool:
    """Whether it is a size or a shape, as in ``x.view(x.size(0), -1)``, and no activation."""
    if node.op == "call_method":
        return node.target == "size"
    if node.target is operator.getitem:
        of = node.args[0]
        return isinstance(of, fx.Node) and _is_size(of)
    return node.target is getattr and node.args[1] == "shape"


def _is_batch(node: fx.Node) -> bool:
    """Whether it is the number of images: ``x.size(0)`` or ``x.shape[0]``."""
    if node.target == "size":
        return node.args[1:] == (0,)
    return _is_size(node) and node.target is operator.getitem and node.args[1:] == (0,)


KNOWN = (
    "convolution (zero padding), linear, batch norm in evaluation, average and max pooling, ReLU, "
    "leaky ReLU, ELU (alpha at most 1), tanh, sigmoid, hardtanh, dropout, flatten, view with the "
    "batch first, sums of branches, and sums and products with numbers"
)
"""What can be bounded, as messages say it."""

_BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d

_RELU = Monotone(torch.relu, lines=partial(clipped_lines, 0.0, torch.inf))
_TANH = Monotone(
    torch.tanh, is_exact=False, lines=partial(curved_lines, torch.tanh, tanh_slope, 0.0)
)
_SIGMOID = Monotone(
    torch.sigmoid, is_exact=False, lines=partial(curved_lines, torch.sigmoid, sigmoid_slope, 0.0)
)


_SHAPES: dict[tuple[object, ...], Layer] = {
    (torch.relu, F.relu, "relu", torch.relu_, "relu_"): _RELU,
    (torch.tanh, F.tanh, "tanh"): _TANH,
    (torch.sigmoid, F.sigmoid, "sigmoid"): _SIGMOID,
}
"""Functions without settings."""


def _of_module(module: nn.Module) -> Layer | None:
    if isinstance(module, nn.Linear):
        return Linear(F.linear, module.weight, module.bias)
    if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
        apply = partial(_convolved, module.stride, module.padding, module.dilation, module.groups)
        return Linear(apply, module.weight, module.bias)
    if isinstance(module, _BATCH_NORMS):
        return _batch_norm(module)
    if isinstance(module, nn.ReLU):
        return _RELU
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return _clipped(module.min_val, module.max_val)
    if isinstance(module, nn.Tanh):
        return _TANH
    if isinstance(module, nn.Sigmoid):
        return _SIGMOID
    if isinstance(module, nn.LeakyReLU):
        return _leaky(module.negative_slope)
    if isinstance(module, nn.ELU):
        return _elu(module.alpha)
    if isinstance(module, nn.MaxPool2d) and not module.return_indices:
        return _max_pool(
            kernel_size=module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            ceil_mode=module.ceil_mode,
        )
    if isinstance(module, nn.AvgPool2d) and module.divisor_override is None:
        return Pooled(module, _area(module.kernel_size))
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return Pooled(module, None)
    if isinstance(module, nn.Flatten):
        return Reshaped(module) if module.start_dim == 1 else None
    if isinstance(module, nn.Identity | Dropout | nn.Dropout | nn.Dropout2d):
        return Reshaped(_same)
    return None


def _of_function(node: fx.Node) -> Layer | None:
    """The layer that a function or a method is; ``None`` if there is none."""
    target = node.target
    for functions, layer in _SHAPES.items():
        if target in functions:
            return layer if not {*node.kwargs} - {"inplace"} else None
    if target in (F.dropout, F.dropout2d):
        # Dropout that hangs on the mode is off here; what is always on is no function of the image.
        return Reshaped(_same) if _settings(node).get("training", True) is False else None
    if target in ("view", "reshape", torch.reshape):
        return _reshaped(node)
    if target in _ARITHMETIC:
        return _arithmetic(node)
    settings: list[Any] = [*node.args[1:]]
    named: dict[str, Any] = {**node.kwargs}
    if any(isinstance(value, fx.Node) for value in [*settings, *named.values()]):
        return None
    if target is F.leaky_relu:
        return _leaky(settings[0] if settings else named.get("negative_slope", 0.01))
    if target is F.elu:
        return _elu(settings[0] if settings else named.get("alpha", 1.0))
    if target is F.max_pool2d and not named.get("return_indices") and len(settings) < 6:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        given = {**named, **dict(zip(names, settings, strict=False))}
        return _max_pool(**{name: given[name] for name in names if name in given})
    call = partial(_called, target, tuple(settings), named)
    if target in (torch.flatten, "flatten"):
        start = settings[0] if settings else named.get("start_dim", 0)
        return Reshaped(call) if start == 1 else None
    if target is F.avg_pool2d and named.get("divisor_override") is None and len(settings) < 6:
        return Pooled(call, _area(settings[0] if settings else named["kernel_size"]))
    if target is F.adaptive_avg_pool2d:
        return Pooled(call, None)
    if target in (torch.mean, "mean"):
        over: Any = settings[0] if settings else named.get("dim")
        return Pooled(call, None) if _listed(over) in ([2, 3], [-2, -1]) else None
    return None


def _reshaped(node: fx.Node) -> Layer | None:
    """``x.view(batch, …)``, the batch as ``x.size(0)``, ``x.shape[0]`` or -1."""
    shape: list[Any] = [*node.args[1:], *node.kwargs.values()]
    if len(shape) == 1 and isinstance(shape[0], list | tuple):
        shape = list(shape[0])
    if not shape:
        return None
    batch, *rest = shape
    keeps_batch = _is_batch(batch) if isinstance(batch, fx.Node) else batch == -1
    if not keeps_batch or not all(isinstance(size, int) for size in rest):
        return None
    return Reshaped(partial(_viewed, tuple(rest)))


_ARITHMETIC: dict[object, str] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    "add": "add",
    "add_": "add",
    operator.sub: "sub",
    operator.isub: "sub",
    torch.sub: "sub",
    "sub": "sub",
    operator.mul: "mul",
    operator.imul: "mul",
    torch.mul: "mul",
    "mul": "mul",
    operator.truediv: "div",
    operator.itruediv: "div",
    torch.div: "div",
    "div": "div",
}


def _arithmetic(node: fx.Node) -> Layer | None:
    """Two branches added or subtracted, or a branch and a number."""
    kind = _ARITHMETIC[node.target]
    if len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    if isinstance(first, fx.Node) and isinstance(second, fx.Node):
        is_sum = kind in ("add", "sub") and len(_inputs(node)) == 2
        return Added(-1 if kind == "sub" else 1) if is_sum else None
    if isinstance(first, int | float) and kind in ("add", "mul"):
        first, second = second, first
    if not isinstance(second, int | float) or (kind == "div" and second == 0):
        return None
    number = torch.tensor([float(second)], dtype=torch.float64)
    one, none = torch.ones_like(number), torch.zeros_like(number)
    if kind in ("add", "sub"):
        return Scale(one, number if kind == "add" else -number, number.abs())
    return Scale(number if kind == "mul" else 1 / number, none, none)


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d) -> Layer | None:
    if module.running_mean is None or module.running_var is None:
        return None
    shape = (1, -1, 1, 1) if isinstance(module, nn.BatchNorm2d) else (1, -1)
    scale = (module.running_var.double() + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight.double()
    shift = -module.running_mean.double() * scale
    terms = shift.abs()
    if module.bias is not None:
        shift = shift + module.bias.double()
        terms = terms + module.bias.double().abs()
    return Scale(scale.view(shape), shift.view(shape), terms.detach().view(shape))


def _clipped(least: float, most: float) -> Layer:
    apply = partial(torch.clamp, min=least, max=most)
    return Monotone(apply, lines=partial(clipped_lines, least, most))


def _leaky(slope: float) -> Layer | None:
    if slope < 0:
        return None
    apply = partial(F.leaky_relu, negative_slope=slope)
    lines = partial(leaky_lines, slope) if slope <= 1 else None
    return Monotone(apply, is_exact=False, lines=lines)


def _elu(alpha: float) -> Layer | None:
    if not 0 < alpha <= 1:  # it would fall, or be neither convex nor concave
        return None
    apply = partial(F.elu, alpha=alpha)
    slope_at = partial(_elu_slope, alpha)
    lines = partial(curved_lines, apply, slope_at, torch.inf)
    return Monotone(apply, is_exact=False, lines=lines)


def _elu_slope(alpha: float, x: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, alpha * x.clamp(max=0).exp())


def _max_pool(**settings: Any) -> Layer:
    apply = partial(F.max_pool2d, **settings)
    return Monotone(apply, lines=partial(pooled_lines, settings))


def _convolved(
    stride: Any, padding: Any, dilation: Any, groups: int, x: Tensor, w: Tensor, b: Tensor | None
) -> Tensor:
    return F.conv2d(x, w, b, stride, padding, dilation, groups)


def _area(size: Any) -> int:
    """Of a window."""
    sizes = _listed(size)
    return int(sizes[0] * sizes[-1])


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) else [value]


def _called(target: Any, settings: tuple[Any, ...], named: dict[str, Any], x: Tensor) -> Tensor:
    result: Tensor = (
        getattr(x, target)(*settings, **named)
        if isinstance(target, str)
        else target(x, *settings, **named)
    )
    return result


def _viewed(shape: tuple[int, ...], x: Tensor) -> Tensor:
    return x.reshape(-1 if -1 not in shape else len(x), *shape)


def _same(values: Tensor) -> Tensor:
    return values
