"""A classifier read as a list of layers there are bounds for, by symbolic tracing (torch.fx).

What cannot be bounded is refused when it is read, with its name: never when half is computed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nullclass.certify.layers import Added, Layer, Linear, Monotone, Pooled, Reshaped, Scale
from nullclass.errors import UserError
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

    def values(self, images: Tensor) -> Tensor:
        """The logits ``(N, K + num_nulls)``, as the model computes them."""
        logits: Tensor = self.run(
            images, lambda step, inputs: step.layer.value(*inputs), num_steps=len(self.steps)
        )
        return logits


def read_network(model: Classifier) -> Network:
    """Read a model's layers, in evaluation mode.

    Raises:
        UserError: If a layer or a function has no bound here, or the forward pass hangs on the
            values of its input; the message names it.
    """
    for name, module in model.body.named_modules():
        if isinstance(module, _BATCH_NORMS) and module.training:
            raise UserError(
                f"layer {name!r} is batch norm in training mode, whose output hangs on the whole "
                "batch: call eval() on the model first, or train a network without batch norm"
            )
    try:
        graph = _Tracer().trace(model.body)
    except Exception as error:
        raise UserError(
            f"the network cannot be read layer by layer ({error}): its forward pass must not hang "
            "on the values of its input"
        ) from None
    steps: list[Step] = [Step("standardisation", _standardisation(model), (-1,))]
    places: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            places[node] = 0
        elif node.op == "output":
            (result,) = node.args
            if not isinstance(result, fx.Node) or places.get(result) != len(steps) - 1:
                raise UserError(
                    "the network must return its logits, and compute nothing after them"
                )
        elif node.op != "get_attr":
            layer, inputs = _layer_of(node, model.body)
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


def _standardisation(model: Classifier) -> Layer:
    scale = (1 / model.std.double())[None]
    shift = -model.mean.double()[None] * scale
    return Scale(scale.to(model.std.dtype), shift.to(model.std.dtype))


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else str(node.name)


def _layer_of(node: fx.Node, body: nn.Module) -> tuple[Layer, list[fx.Node]]:
    """The layer of a node, and the nodes it reads."""
    if node.op == "call_module":
        module = body.get_submodule(str(node.target))
        layer = _of_module(module)
        if layer is None:
            raise UserError(
                f"layer {node.target!r} ({type(module).__name__}) has no bound here: known are "
                f"{KNOWN}"
            )
        return layer, [given for given in node.args if isinstance(given, fx.Node)]
    layer = _of_function(node)
    if layer is None:
        told = getattr(node.target, "__name__", str(node.target))
        raise UserError(f"the function {told!r} ({node.name}) has no bound here: known are {KNOWN}")
    return layer, [
        given for given in node.args if isinstance(given, fx.Node) and given.op != "get_attr"
    ]


KNOWN = (
    "convolution, linear, batch norm in evaluation, average and max pooling, ReLU, leaky ReLU, "
    "tanh, sigmoid, hardtanh, dropout, flatten, and sums of branches"
)
"""What can be bounded, as messages say it."""

_BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d


def _of_module(module: nn.Module) -> Layer | None:
    if isinstance(module, nn.Linear):
        return Linear(F.linear, module.weight, module.bias)
    if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
        apply = partial(_convolved, module.stride, module.padding, module.dilation, module.groups)
        return Linear(apply, module.weight, module.bias)
    if isinstance(module, _BATCH_NORMS):
        return _batch_norm(module)
    if isinstance(module, nn.ReLU | nn.ReLU6 | nn.Hardtanh):
        return Monotone(_out_of_place(module))
    if isinstance(module, nn.Tanh | nn.Sigmoid):
        return Monotone(module, is_exact=False)
    if isinstance(module, nn.LeakyReLU) and module.negative_slope >= 0:
        return Monotone(_out_of_place(module), is_exact=False)
    if isinstance(module, nn.MaxPool2d) and not module.return_indices:
        return Monotone(module)
    if isinstance(module, nn.AvgPool2d) and module.divisor_override is None:
        size = module.kernel_size
        return Pooled(module, size * size if isinstance(size, int) else size[0] * size[1])
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return Pooled(module, 2**16)  # whatever the image; the margin stays below a hundredth
    if isinstance(module, nn.Flatten | nn.Identity):
        return Reshaped(module)
    if isinstance(module, Dropout | nn.Dropout | nn.Dropout2d):
        return Reshaped(_same)
    return None


def _of_function(node: fx.Node) -> Layer | None:
    target = node.target
    if target in (torch.relu, F.relu, "relu"):
        return Monotone(torch.relu)
    if target in (torch.tanh, F.tanh, "tanh"):
        return Monotone(torch.tanh, is_exact=False)
    if target in (torch.sigmoid, F.sigmoid, "sigmoid"):
        return Monotone(torch.sigmoid, is_exact=False)
    if target in (F.dropout, F.dropout2d):
        return Reshaped(_same)
    settings: list[Any] = [value for value in node.args[1:] if not isinstance(value, fx.Node)]
    if len(settings) == len(node.args) - 1:
        call = partial(_called, target, tuple(settings), dict(node.kwargs))
        if target in (torch.flatten, "flatten", "view", "reshape", torch.reshape):
            return Reshaped(call)
        if target is F.max_pool2d:
            return Monotone(call)
        if target is F.avg_pool2d:
            size: Any = node.kwargs.get("kernel_size", settings[0] if settings else 0)
            return Pooled(call, size**2 if isinstance(size, int) else size[0] * size[1])
    if target in _SUMS:
        branches = [given for given in node.args if isinstance(given, fx.Node)]
        is_sum = len(branches) == 2 and not node.kwargs
        if is_sum and all(given.op != "get_attr" for given in branches):
            return Added(_SUMS[target])
    return None


_SUMS: dict[object, int] = {
    operator.add: 1,
    operator.iadd: 1,
    torch.add: 1,
    "add": 1,
    operator.sub: -1,
    torch.sub: -1,
    "sub": -1,
}


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d) -> Layer | None:
    if module.running_mean is None or module.running_var is None:
        return None
    shape = (1, -1, 1, 1) if isinstance(module, nn.BatchNorm2d) else (1, -1)
    scale = (module.running_var.double() + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight.double()
    shift = -module.running_mean.double() * scale
    if module.bias is not None:
        shift = shift + module.bias.double()
    dtype = module.running_mean.dtype
    return Scale(scale.to(dtype).view(shape), shift.to(dtype).view(shape))


def _convolved(
    stride: Any, padding: Any, dilation: Any, groups: int, x: Tensor, w: Tensor, b: Tensor | None
) -> Tensor:
    return F.conv2d(x, w, b, stride, padding, dilation, groups)


def _out_of_place(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The layer without ``inplace``, which would write over a box's corners."""
    if isinstance(module, nn.LeakyReLU):
        return partial(F.leaky_relu, negative_slope=module.negative_slope)
    if isinstance(module, nn.Hardtanh):
        return partial(torch.clamp, min=module.min_val, max=module.max_val)
    return torch.relu


def _called(target: Any, settings: tuple[Any, ...], named: dict[str, Any], x: Tensor) -> Tensor:
    result: Tensor = (
        getattr(x, target)(*settings, **named)
        if isinstance(target, str)
        else target(x, *settings, **named)
    )
    return result


def _same(values: Tensor) -> Tensor:
    return values
