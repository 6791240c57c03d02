"""A classifier as a sequence of layers that have bounds.

The layers are read from the model by symbolic tracing (:mod:`nullclass.certify.tracing`). A layer
without a bound is refused by name when the model is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from nullclass.certify.layers import Layer, Linear, Scale
from nullclass.certify.rounding import proof_dtype
from nullclass.certify.tracing import trace_layers
from nullclass.core.errors import UserError
from nullclass.models.classifier import Classifier


@dataclass(frozen=True)
class Step:
    """One layer and the steps of its inputs."""

    name: str
    """Name of the module or function, for messages."""
    layer: Layer
    inputs: tuple[int, ...]
    """Indices of earlier steps; -1 is the image."""


@dataclass(frozen=True)
class Network:
    """A classifier's standardisation and body, layer by layer.

    The weights are the model's own tensors, not copies: the bounds follow the training.
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
        """A copy for images of another type; its weights are detached from the model's."""
        steps = tuple(replace(step, layer=step.layer.to(dtype)) for step in self.steps)
        return replace(self, steps=steps)

    def values(self, images: Tensor) -> Tensor:
        """Logits ``(N, L)``, as the model computes them."""
        logits: Tensor = self.run(images, lambda step, inputs: step.layer.value(*inputs))
        return logits


def read_network(model: Classifier) -> Network:
    """Read a model's layers, in evaluation mode.

    If the model's ``image_shape`` is known, the result is compared with the model
    (:func:`check_network`).

    Raises:
        UserError: If a layer or function has no bound, an activation is changed in place, the
            forward pass depends on the values of its input or on more than images, the model is
            neither float32 nor float64, or the result does not compute what the model does. The
            message names the cause.
    """
    _check_model(model)
    with _evaluation_mode(model):
        scale = (1 / model.std.double())[None]
        shift = -model.mean.double()[None] * scale
        steps = [Step("standardisation", Scale(scale, shift, shift.abs()), (-1,))]
        steps += [Step(*traced) for traced in trace_layers(model.body)]
        network = Network(tuple(steps), model.num_classes + model.num_nulls)
        if model.image_shape is not None:
            check_network(network, model, model.image_shape)
    return network


def check_network(network: Network, model: Classifier, image_shape: Sequence[int]) -> None:
    """Check that a network computes what its model does, on one random image.

    Raises:
        UserError: If the two differ by more than rounding, or one of them fails.
    """
    dtype = next(model.body.parameters(), model.mean).dtype
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, *image_shape), generator=generator).to(model.mean.device, dtype)
    fork = torch.random.fork_rng(devices=[])
    plain = torch.autocast(image.device.type, enabled=False)
    with _evaluation_mode(model), torch.no_grad(), fork, plain:
        try:
            expected = [model.all_logits(image.clone()) for _ in range(2)]
            logits = [network.values(image.clone()) for _ in range(2)]
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the network cannot be bounded on images of shape {tuple(image_shape)} ({error}): "
                "give images, and an image_shape, that the model takes"
            ) from None
    size = max(1.0, float(expected[0].abs().nan_to_num(0, 0, 0).max()))
    tolerance = (1e-3 if dtype == torch.float32 else 1e-9) * size
    for other in (expected[1], *logits):  # twice each: a random layer may agree once
        if other.shape != expected[0].shape or not torch.allclose(
            other, expected[0], 0, tolerance, equal_nan=True
        ):
            raise UserError(
                "the network computes other logits than its layers as read from the forward pass: "
                "write it as layers and functions of one batch of images, without in-place changes "
                "or random numbers"
            )


def _check_model(model: Classifier) -> None:
    """Refuse models that tracing would misread, and types and devices without bounds."""
    if type(model).all_logits is not Classifier.all_logits:
        raise UserError(
            f"a {type(model).__name__} has no bounds of its own: use the classifier inside it"
        )
    for tensor in (model.mean, *model.body.parameters()):
        proof_dtype(tensor.device, tensor.dtype)
        if tensor.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"bounds need a model in float32 or float64, and this one is in {tensor.dtype}: "
                "call model.float() first"
            )
    for name, module in model.body.named_modules():
        layer = f"layer {name!r} ({type(module).__name__})"
        if is_parametrized(module):
            raise UserError(
                f"{layer} has parametrised weights, which bounds do not follow: call "
                "torch.nn.utils.parametrize.remove_parametrizations first"
            )
        if module._forward_hooks or module._forward_pre_hooks:
            raise UserError(f"{layer} has a hook, which bounds do not see: remove it first")
        if "forward" in vars(module):
            raise UserError(
                f"{layer} has a replaced forward method, which bounds do not see: write a module "
                "of its own instead"
            )
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.training:
            raise UserError(
                f"{layer} is batch norm in training mode, whose output depends on the other images "
                "of the batch: call model.eval() before proving; training by bounds needs a "
                "network without batch norm"
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
