"""Reads the layers of a network by symbolic tracing (torch.fx).

Functions and methods are read as the modules that do the same (``F.relu`` as ``nn.ReLU``), so each
operation has one bound. In-place operations are refused: a later layer could read the changed
activation, which the trace does not show.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nullclass.certify import relaxations
from nullclass.certify.layers import AveragePool, Layer, Linear, Monotone, Reshape, Scale, Sum
from nullclass.core.errors import UserError
from nullclass.models.dropout import Dropout

SUPPORTED = (
    "convolution (zero padding), linear, batch norm in evaluation, average and max pooling, ReLU, "
    "leaky ReLU, ELU (alpha at most 1), tanh, sigmoid, hardtanh, dropout, flatten, view with the "
    "batch first, sums of branches, and sums and products with numbers"
)


def trace_layers(body: nn.Module) -> list[tuple[str, Layer, tuple[int, ...]]]:
    """Name, layer and input indices of each operation of a network, in order.

    Indices count operations from 1; 0 is the network's input.

    Raises:
        UserError: If an operation has no bound or changes its input in place, or the forward pass
            depends on the values of its input or on more than images.
    """
    try:
        graph = _Tracer().trace(body)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the network cannot be read layer by layer ({error}): its forward pass must not "
            "depend on the values of its input"
        ) from None
    traced: list[tuple[str, Layer, tuple[int, ...]]] = []
    indices: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            if indices:
                raise UserError(
                    f"the network's forward pass takes {node.name!r} besides the images: bounds "
                    "are of functions of images only"
                )
            indices[node] = 0
        elif node.op == "output":
            (result,) = node.args
            if not isinstance(result, fx.Node) or indices.get(result) != len(traced):
                raise UserError(
                    "the network must return its logits, and compute nothing after them"
                )
        elif node.op != "get_attr" and not _is_size(node):
            read = _read_module if node.op == "call_module" else _read_function
            name, layer, inputs = read(node, body)
            traced.append((name, layer, tuple(indices[each] for each in inputs)))
            indices[node] = len(traced)
    return traced


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Layers of torch and our dropout are not traced into."""
        is_torch = type(m).__module__.startswith("torch.nn.modules.")
        return isinstance(m, Dropout) or (is_torch and not isinstance(m, nn.Sequential))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """An activation that refuses in-place operators."""
        return _Activation(node, self)


class _Activation(fx.Proxy):
    """A traced activation. A plain proxy traces ``x += y`` as ``x + y``, which leaves x alone."""

    def __iadd__(self, other: Any) -> NoReturn:
        _refuse_in_place(f"an operator such as += after {self.node.name!r}")

    __isub__ = __imul__ = __itruediv__ = __iadd__


def _refuse_in_place(what: str) -> NoReturn:
    raise UserError(
        f"{what} changes an activation in place, which bounds do not follow: write the network "
        "without inplace=True, functions whose names end in _, and operators such as +="
    )


def _read_module(node: fx.Node, body: nn.Module) -> tuple[str, Layer, list[fx.Node]]:
    name = str(node.target)
    module = body.get_submodule(name)
    what = f"layer {name!r} ({type(module).__name__})"
    inputs = node.all_input_nodes
    is_one_input = len(node.args) + len(node.kwargs) == len(inputs) == 1
    if not is_one_input or inputs[0].op == "get_attr" or _is_size(inputs[0]):
        raise UserError(f"{what} must have one activation as its only input")
    if getattr(module, "inplace", False):
        _refuse_in_place(what)
    layer = _layer_of(module)
    if layer is None:
        raise UserError(f"{what} has no bound: supported are {SUPPORTED}")
    return name, layer, inputs


def _read_function(node: fx.Node, body: nn.Module) -> tuple[str, Layer, list[fx.Node]]:
    args, settings = [*node.args], dict(node.kwargs)
    if not args and "input" in settings:
        args = [settings.pop("input")]
    target: Any = node.target
    # torch wraps max_pool2d under another name.
    name = "max_pool2d" if target is F.max_pool2d else getattr(target, "__name__", str(target))
    what = f"the function {name!r} ({node.name})"
    if name.endswith("_"):
        _refuse_in_place(what)
    if target in ("view", "reshape", torch.reshape):
        layer = _reshape(args[1:], settings)
    elif target in _ARITHMETIC:
        layer = None if settings else _arithmetic(_ARITHMETIC[target], args)
    elif any(isinstance(value, fx.Node) for value in (*args[1:], *settings.values())):
        layer = None
    elif target in (torch.mean, "mean"):
        layer = _mean(args, settings)
    else:
        module = _module_of(target, args[1:], settings)
        if getattr(module, "inplace", False):
            _refuse_in_place(what)
        layer = None if module is None else _layer_of(module)
    inputs = [
        each
        for each in args
        if isinstance(each, fx.Node) and each.op != "get_attr" and not _is_size(each)
    ]
    if layer is None or len(inputs) != (2 if isinstance(layer, Sum) else 1):
        raise UserError(f"{what} has no bound as it is called: supported are {SUPPORTED}")
    return node.name, layer, inputs


def _is_size(node: fx.Node) -> bool:
    """Whether a node is a size or shape, as in ``x.view(x.size(0), -1)``."""
    if node.op == "call_method":
        return node.target == "size"
    if node.target is operator.getitem:
        owner = node.args[0]
        return isinstance(owner, fx.Node) and _is_size(owner)
    return node.target is getattr and node.args[1] == "shape"


def _is_batch_size(node: fx.Node) -> bool:
    """Whether a node is the number of images: ``x.size(0)`` or ``x.shape[0]``."""
    is_item = node.target == "size" or (_is_size(node) and node.target is operator.getitem)
    return is_item and node.args[1:] == (0,)


def _max_pool(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> nn.Module:
    return nn.MaxPool2d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module | None:
    # As a function it is on by default, also in evaluation.
    return None if training else nn.Dropout(p, inplace)


def _flatten(start_dim: int = 0, end_dim: int = -1) -> nn.Module:
    return nn.Flatten(start_dim, end_dim)


_MODULES: dict[object, Callable[..., nn.Module | None]] = {
    **dict.fromkeys((torch.relu, F.relu, "relu"), nn.ReLU),
    **dict.fromkeys((torch.tanh, F.tanh, "tanh"), nn.Tanh),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid"), nn.Sigmoid),
    F.leaky_relu: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.hardtanh: nn.Hardtanh,
    F.relu6: nn.ReLU6,
    F.max_pool2d: _max_pool,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys((F.dropout, F.dropout2d), _dropout),
}
"""Modules equal to a function of an activation, by the function's further arguments."""


def _module_of(target: object, args: list[Any], settings: dict[str, Any]) -> nn.Module | None:
    if target not in _MODULES:
        return None
    try:
        return _MODULES[target](*args, **settings)
    except TypeError:  # another signature, such as relu(x, out=y)
        return None


def _layer_of(module: nn.Module) -> Layer | None:
    """The layer of a module; None if it has no bound."""
    match module:
        case nn.Linear():
            return Linear(F.linear, module.weight, module.bias)
        case nn.Conv2d(padding_mode="zeros"):
            apply = partial(
                _convolve, module.stride, module.padding, module.dilation, module.groups
            )
            return Linear(apply, module.weight, module.bias)
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return _batch_norm(module)
        case nn.ReLU():
            relax = partial(relaxations.clipped_relaxation, 0.0, torch.inf)
            return Monotone(torch.relu, relax=relax)
        case nn.Hardtanh(min_val=low, max_val=high):  # ReLU6 too
            clamp = partial(torch.clamp, min=low, max=high)
            return Monotone(clamp, relax=partial(relaxations.clipped_relaxation, low, high))
        case nn.Tanh():
            return _curved(torch.tanh, relaxations.tanh_slope, 0.0)
        case nn.Sigmoid():
            return _curved(torch.sigmoid, relaxations.sigmoid_slope, 0.0)
        case nn.ELU(alpha=alpha) if 0 < alpha <= 1:  # otherwise not monotone, or not convex
            return _curved(partial(F.elu, alpha=alpha), partial(_elu_slope, alpha), torch.inf)
        case nn.LeakyReLU(negative_slope=slope) if slope >= 0:
            leaky = partial(F.leaky_relu, negative_slope=slope)
            has_lines = slope <= 1
            relax = partial(relaxations.leaky_relaxation, slope)
            return Monotone(leaky, is_exact=False, relax=relax if has_lines else None)
        case nn.MaxPool2d(return_indices=False):
            names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
            pooling = {name: getattr(module, name) for name in names}
            relax = partial(relaxations.max_pool_relaxation, pooling)
            return Monotone(partial(F.max_pool2d, **pooling), relax=relax)
        case nn.AvgPool2d(kernel_size=size, divisor_override=None):
            sides = _as_list(size)
            return AveragePool(module, int(sides[0] * sides[-1]))
        case nn.AdaptiveAvgPool2d():
            return AveragePool(module, None)
        case nn.Flatten(start_dim=1):
            return Reshape(module)
        case nn.Identity() | Dropout() | nn.Dropout() | nn.Dropout2d():
            return Reshape(_identity)
    return None


def _reshape(sizes: list[Any], settings: dict[str, Any]) -> Layer | None:
    """``x.view(batch, …)``, the batch as ``x.size(0)``, ``x.shape[0]`` or -1."""
    sizes = [*sizes, *settings.values()]
    if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
        sizes = list(sizes[0])
    if not sizes:
        return None
    batch, *shape = sizes
    keeps_batch = _is_batch_size(batch) if isinstance(batch, fx.Node) else batch == -1
    if not keeps_batch or not all(isinstance(size, int) for size in shape):
        return None
    return Reshape(partial(_view, tuple(shape)))


def _mean(args: list[Any], settings: dict[str, Any]) -> Layer | None:
    """``x.mean((2, 3))``."""
    dims = _as_list(args[1] if len(args) > 1 else settings.get("dim"))
    if dims not in ([2, 3], [-2, -1]) or not {*settings} <= {"dim", "keepdim"}:
        return None
    return AveragePool(lambda x: torch.mean(x, *args[1:], **settings), None)


_ARITHMETIC: dict[object, str] = {
    **dict.fromkeys((operator.add, torch.add, "add"), "add"),
    **dict.fromkeys((operator.sub, torch.sub, "sub"), "sub"),
    **dict.fromkeys((operator.mul, torch.mul, "mul"), "mul"),
    **dict.fromkeys((operator.truediv, torch.div, "div"), "div"),
}


def _arithmetic(kind: str, args: list[Any]) -> Layer | None:
    """The sum or difference of two branches, or of a branch and a number, or a product with one."""
    if len(args) != 2:
        return None
    first, second = args
    if isinstance(first, fx.Node) and isinstance(second, fx.Node):
        return Sum(-1 if kind == "sub" else 1) if kind in ("add", "sub") else None
    if isinstance(first, int | float) and kind in ("add", "mul"):
        first, second = second, first
    if not isinstance(second, int | float) or (kind == "div" and second == 0):
        return None
    number = torch.tensor([float(second)], dtype=torch.float64)
    one, zero = torch.ones_like(number), torch.zeros_like(number)
    if kind in ("add", "sub"):
        return Scale(one, number if kind == "add" else -number, number.abs())
    return Scale(number if kind == "mul" else 1 / number, zero, zero)


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


def _curved(apply: Callable[[Tensor], Tensor], slope_at: Any, turn: float) -> Layer:
    relax = partial(relaxations.curved_relaxation, apply, slope_at, turn)
    return Monotone(apply, is_exact=False, relax=relax)


def _elu_slope(alpha: float, x: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, alpha * x.clamp(max=0).exp())


def _convolve(
    stride: Any, padding: Any, dilation: Any, groups: int, x: Tensor, w: Tensor, b: Tensor | None
) -> Tensor:
    return F.conv2d(x, w, b, stride, padding, dilation, groups)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) else [value]


def _view(shape: tuple[int, ...], x: Tensor) -> Tensor:
    return x.reshape(-1 if -1 not in shape else len(x), *shape)


def _identity(values: Tensor) -> Tensor:
    return values
