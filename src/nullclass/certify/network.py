"""A classifier as a sequence of layers that have bounds.

The model's own forward pass runs on a tensor that records every operation. So hooks and
Python code count as they do in the model. An operation without a bound is refused by name. In-place
operations are refused too: a later layer could read the changed activation, which the record does
not show. Finally the layers are compared with the model on random images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from nullclass.certify.layers import Layer, Linear, Reshape, Scale
from nullclass.certify.operations import OPERATIONS, RESHAPING, SUPPORTED
from nullclass.certify.rounding import proof_dtype
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier
from nullclass.models.network import split_output


@dataclass(frozen=True)
class Step:
    """One layer and the steps of its inputs."""

    layer: Layer
    inputs: tuple[int, ...]
    """Indices of earlier steps; -1 is the image."""


@dataclass(frozen=True)
class Network:
    """A classifier's standardisation and body, layer by layer.

    Weights are the model's own tensors, not copies, so bounds follow the training. Statistics of
    batch norm are copied.
    """

    steps: tuple[Step, ...]
    """In order; the last one gives the logits."""
    num_logits: int
    """L: K, or K plus the number of null logits."""

    def run(
        self, image: Any, apply: Callable[[Step, list[Any]], Any], num_steps: int | None = None
    ) -> Any:
        """Apply a function to every step and the results of its inputs.

        Args:
            image: The input of the first step.
            apply: Maps a step and the results of its inputs to its result.
            num_steps: Number of steps to run; by default all.

        Returns:
            The result of the last of these steps.
        """
        num_steps = len(self.steps) if num_steps is None else num_steps
        results: dict[int, Any] = {-1: image}
        for index, step in enumerate(self.steps[:num_steps]):
            results[index] = apply(step, [results[source] for source in step.inputs])
            for source in self._done_after[index]:
                del results[source]
        return results[num_steps - 1]

    def needed_by(self, index: int) -> set[int]:
        """Return a step and all that it depends on; -1, the image, is one of them."""
        found, left = set[int](), [index]
        while left:
            step = left.pop()
            if step not in found:
                found.add(step)
                left += self.steps[step].inputs if step >= 0 else ()
        return found

    def pruned(self) -> Network:
        """Return the steps that the last one needs; a network may compute what it does not use."""
        kept = sorted(self.needed_by(len(self.steps) - 1) | {-1})
        place = {index: number for number, index in enumerate(kept, start=-1)}
        steps = (self.steps[index] for index in kept[1:])
        renumbered = (replace(s, inputs=tuple(place[i] for i in s.inputs)) for s in steps)
        return replace(self, steps=tuple(renumbered))

    @cached_property
    def _done_after(self) -> list[list[int]]:
        """Per step, the earlier steps whose results no later step needs."""
        last_use = {source: i for i, step in enumerate(self.steps) for source in step.inputs}
        last_use.pop(-1, None)
        return [[s for s, last in last_use.items() if last == i] for i in range(len(self.steps))]

    @property
    def last_matrix(self) -> Linear | None:
        """The last layer if it is a matrix behind other layers."""
        last = self.steps[-1].layer
        if isinstance(last, Linear) and last.weight.ndim == 2 and len(self.steps) > 1:
            return last
        return None

    def to(self, dtype: torch.dtype) -> Network:
        """A copy for images of another type."""
        steps = tuple(replace(step, layer=step.layer.to(dtype)) for step in self.steps)
        return replace(self, steps=steps)

    def values(self, images: Tensor) -> Tensor:
        """Logits ``(N, L)``, as the model computes them."""
        logits: Tensor = self.run(images, lambda step, inputs: step.layer.value(*inputs))
        return logits


class _Activation(Tensor):
    """A tensor that records the operations on it."""

    tape: list[Step]
    position: int

    @classmethod
    def record(cls, value: Tensor, layer: Layer, tape: list[Step], *inputs: int) -> _Activation:
        """Append a step, and return its output."""
        tape.append(Step(layer, inputs))
        activation = value.as_subclass(cls)
        activation.tape, activation.position = tape, len(tape) - 1
        return activation

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Record an operation, or return a shape."""
        name, settings = func.__name__, dict(kwargs or {})
        if name == "__get__":  # a property
            name = func.__self__.__name__
        if "input" in settings:
            args = (settings.pop("input"), *args)
        if settings.pop("inplace", False) or (name.endswith("_") and not name.endswith("__")):
            raise UserError(
                f"the network calls {name!r} in place, which bounds do not follow: write it "
                "without inplace=True, functions whose names end in _, and operators such as +="
            )
        layer: Layer | None = None
        with torch._C.DisableTorchFunctionSubclass():
            if name in ("shape", "ndim", "dtype", "device", "size", "dim", "__len__"):
                return func(*args, **settings)
            if name in RESHAPING:
                output = func(*args, **settings)
                layer = Reshape(tuple(output.shape[1:])) if len(output) == len(args[0]) else None
            elif name in OPERATIONS:
                output = func(*args, **settings)
                try:
                    layer = OPERATIONS[name](*args, **settings)
                except TypeError:  # an argument without a bound, such as add(x, y, alpha=2)
                    layer = None
        values = (*args, *settings.values())
        inputs = [value for value in values if isinstance(value, cls)]
        # The activations must be the first arguments.
        is_bound = layer is not None and len(inputs) == layer.num_inputs
        if not is_bound or inputs[-1] is not values[len(inputs) - 1]:
            plain = {name: of for name, of in settings.items() if not isinstance(of, Tensor)}
            raise UserError(
                f"the network calls {name!r}{f' with {plain}' if plain else ''}, which has no "
                f"bound: supported are {SUPPORTED}"
            )
        assert layer is not None
        return cls.record(output, layer, inputs[0].tape, *(each.position for each in inputs))


def read_network(model: Classifier, image_shape: Sequence[int]) -> Network:
    """Read the layers of a model, in evaluation mode.

    Args:
        model: The model.
        image_shape: ``(C, H, W)``.

    Raises:
        UserError: If the model calls a function without a bound, changes an activation in place,
            is neither float32 nor float64, has batch norm in training mode, or computes something
            else than the layers. The message names the cause.
    """
    _check_model(model)
    scale = (1 / model.std.double())[None]
    shift = -model.mean.double()[None] * scale
    standardise = Scale(scale, shift, shift.abs())
    dtype = next(model.body.parameters(), model.mean).dtype
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((5, *image_shape), generator=generator).to(model.mean.device, dtype)
    tape: list[Step] = []
    plain = torch.autocast(images.device.type, enabled=False)
    with _evaluation_mode(model), plain, torch.random.fork_rng(devices=[]):
        try:
            # Two images to read, three to compare: a view that mixes images fails for one of them.
            standardised = standardise.value(images[:2])
            image = _Activation.record(standardised, standardise, tape, -1)
            logits, _ = split_output(model.body(image))
            if not isinstance(logits, _Activation):
                raise UserError("the network must return its logits, computed from the images")
            steps = tuple(tape[: logits.position + 1])
            _check_weights(steps, model)
            network = Network(steps, model.num_classes + model.num_nulls).pruned()
            with torch.no_grad():
                _compare(network, model, images[2:])
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the network cannot be bounded on images of shape {tuple(image_shape)} ({error})"
            ) from error
    return network


def _compare(network: Network, model: Classifier, images: Tensor) -> None:
    expected = model.all_logits(images.clone())
    size = max(1.0, float(expected.abs().nan_to_num(0, 0, 0).max()))
    tolerance = (1e-3 if images.dtype == torch.float32 else 1e-9) * size
    for logits in (model.all_logits(images.clone()), network.values(images)):
        if logits.shape != expected.shape or not torch.allclose(
            logits, expected, 0, tolerance, equal_nan=True
        ):
            raise UserError(
                "the network computes other logits than the layers read from its forward pass: "
                "write it as functions of one batch of images, without random numbers"
            )


def _check_model(model: Classifier) -> None:
    """Refuse subclasses with logits of their own, and types, devices and modes without bounds."""
    if type(model).all_logits is not Classifier.all_logits:
        raise UserError(
            f"a {type(model).__name__} has no bounds of its own: use the classifier inside it"
        )
    if model.has_score or model.outputs != "logits":
        raise UserError("bounds need a network that returns logits, without a score or softmax")
    for tensor in (model.mean, *model.body.parameters()):
        proof_dtype(tensor.device, tensor.dtype)
        if tensor.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"bounds need a model in float32 or float64, and this one is in {tensor.dtype}: "
                "call model.float() first"
            )
    for name, module in model.body.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.training:
            raise UserError(
                f"layer {name!r} is batch norm in training mode, whose output depends on the other "
                "images of the batch: call model.eval() before proving; training by bounds needs a "
                "network without batch norm"
            )


def _check_weights(steps: tuple[Step, ...], model: Classifier) -> None:
    """Refuse computed weights: the network would not follow a change of what they depend on."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for layer in (step.layer for step in steps):
        if isinstance(layer, Linear) and not {id(layer.weight), id(layer.bias)} <= own | {id(None)}:
            raise UserError(
                "the network computes weights, which bounds do not follow: use plain parameters "
                "(torch.nn.utils.parametrize.remove_parametrizations)"
            )


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
