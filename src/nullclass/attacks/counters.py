"""The cost of an attack: how many images pass through the network, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nullclass.models.classifier import Classifier, network_inside


@dataclass
class Passes:
    """Images that passed through a model; one image once is one pass."""

    forward: int = 0
    backward: int = 0
    forward_batches: int = 0
    backward_batches: int = 0


@contextmanager
def count_passes(model: nn.Module) -> Iterator[Passes]:
    """Count the passes of a model inside the block.

    Also those of the network inside it that an attack calls by itself, as ``WholeBallPGD`` does. A
    pass through the model is one pass, however often it calls its network.
    """
    passes = Passes()
    inside = network_inside(model) if isinstance(model, Classifier) else model
    depth = 0

    def on_start(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal depth
        depth += 1

    def on_forward(module: nn.Module, inputs: tuple[Any, ...], output: Tensor | None) -> None:
        nonlocal depth
        depth -= 1
        if depth or output is None:  # None after an exception
            return
        passes.forward += len(output)
        passes.forward_batches += 1
        if output.requires_grad:
            output.register_hook(on_backward)

    def on_backward(gradient: Tensor) -> None:
        passes.backward += len(gradient)
        passes.backward_batches += 1

    hooks = []
    for module in (model,) if inside is model else (model, inside):
        hooks.append(module.register_forward_pre_hook(on_start))
        hooks.append(module.register_forward_hook(on_forward, always_call=True))
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()
