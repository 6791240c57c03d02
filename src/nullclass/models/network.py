"""What the body of a model may be, and what it may return.

A body is a module, a function on tensors, or :class:`Imported`, the call that builds one of them.
It returns logits, or logits and a score:

    a tensor            logits
    a tuple or list     logits first, then the score
    a mapping           logits and score under the keys ``logits`` and ``score``
    an object           in the attributes ``logits`` and ``score``
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nullclass.core.devices import in_float64
from nullclass.core.documents import json_values
from nullclass.core.errors import UserError
from nullclass.core.imports import call_function

Body = nn.Module | Callable[..., Any]
"""A module, or a function on tensors."""


@dataclass(frozen=True)
class Imported:
    """A network that a function of your own builds; its checkpoint records the call.

    Raises:
        UserError: If the arguments are not JSON values.
    """

    function: str
    """``PACKAGE.MODULE:FUNCTION``, in the working folder or an installed package."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function, JSON values."""

    def __post_init__(self) -> None:
        """Check the arguments."""
        object.__setattr__(self, "arguments", json_values(dict(self.arguments), "arguments"))

    def build(self) -> Body:
        """Import the function, call it, and return its network. This runs its code.

        Raises:
            UserError: If the function cannot be imported, fails or returns no network.
        """
        network = call_function(self.function, **self.arguments)
        if not callable(network) or isinstance(network, type):
            raise UserError(
                f"{self.function} returns {_kind(network)}: let it return a torch.nn.Module, or a "
                "function from images to logits"
            )
        return network  # type: ignore[no-any-return]


class FunctionModule(nn.Module):
    """A function on tensors as a module.

    The modules that it uses are registered, so that their modes, devices and weights are those of
    this module. They are found in the variables and globals of the function, in the arguments of a
    :class:`functools.partial`, and in the object of a method; others remain unknown.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.used = nn.ModuleList(dict.fromkeys(_modules_of(function)))

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the function returns."""
        return self.function(*inputs)

    def extra_repr(self) -> str:
        """Return the name of the function for ``repr``, without its address in memory."""
        return str(getattr(self.function, "__qualname__", type(self.function).__name__))


def as_module(network: object) -> nn.Module:
    """Return a module as it is, and a function as a :class:`FunctionModule`.

    Raises:
        UserError: If it is neither.
    """
    if isinstance(network, nn.Module):
        return network
    if not callable(network) or isinstance(network, type):
        raise UserError(
            "the model must be a torch.nn.Module or a function from images to logits, not "
            f"{_kind(network)}"
        )
    return FunctionModule(network)


def split_output(output: Any) -> tuple[Tensor, Tensor | None]:
    """Return the logits of a body's output, and its score if there is one.

    Raises:
        UserError: If the output holds no logits, or complex ones.
    """
    logits, score = output, None
    if isinstance(output, Mapping):
        logits, score = output.get("logits"), output.get("score")
    elif hasattr(output, "logits"):
        logits, score = output.logits, getattr(output, "score", None)
    elif isinstance(output, tuple | list) and output:
        logits, score = output[0], output[1] if len(output) > 1 else None
    if not isinstance(logits, Tensor):
        raise UserError(
            f"the network returns {type(output).__name__} without logits: return a tensor, a tuple "
            "that begins with the logits, or a dictionary or object with logits"
        )
    if logits.dtype.is_complex:
        raise UserError(f"the network returns logits of {logits.dtype}: return real numbers")
    return logits, score if isinstance(score, Tensor) else None


def are_probabilities(outputs: Tensor) -> bool:
    """Whether the rows ``(N, L)`` are distributions, such as the outputs of softmax.

    All values are non-negative, and each row sums to 1, within the rounding of its type. One row is
    enough, unless it is of zeros and a one: outputs that are all of this kind are taken for hard
    decisions, which a model may return. A softmax that is saturated on all images looks the same,
    and raises the red flag ``zero-gradients``.
    """
    values = in_float64(outputs)
    tolerance = max(1e-4, torch.finfo(outputs.dtype).eps) if outputs.is_floating_point() else 0.0
    is_distribution = (values >= 0).all() and ((values.sum(dim=1) - 1).abs() <= tolerance).all()
    return bool(is_distribution and ((values != 0) & (values != 1)).any())


def dtype_of(module: nn.Module) -> torch.dtype | None:
    """Return the floating-point type of a module's first parameter, or None."""
    weight = next(module.parameters(), None)
    return weight.dtype if weight is not None and weight.is_floating_point() else None


def device_of(module: nn.Module) -> torch.device | None:
    """Return the device of a module's first parameter, or None."""
    weight = next(module.parameters(), None)
    return None if weight is None else weight.device


def _modules_of(function: Any) -> list[nn.Module]:
    """Return the modules that a function uses, as far as Python shows them."""
    function = inspect.unwrap(function)
    if isinstance(function, partial):
        values = [function.func, *function.args, *function.keywords.values()]
        inner = [] if isinstance(function.func, nn.Module) else _modules_of(function.func)
    elif inspect.ismethod(function):
        values, inner = [function.__self__, *vars(function.__self__).values()], []
    elif inspect.isfunction(function):
        variables = inspect.getclosurevars(function)
        values, inner = [*variables.nonlocals.values(), *variables.globals.values()], []
    else:
        values, inner = [*getattr(function, "__dict__", {}).values()], []
    return [value for value in values if isinstance(value, nn.Module)] + inner


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
