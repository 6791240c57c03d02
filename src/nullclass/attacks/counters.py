"""The cost of an attack: how many images pass through the network, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


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

    Not those of a network inside it that an attack calls by itself, as ``WholeBallPGD`` does.
    """
    passes = Passes()

    def on_forward(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        passes.forward += len(output)
        passes.forward_batches += 1
        if output.requires_grad:
            output.register_hook(on_backward)

    def on_backward(gradient: Tensor) -> None:
        passes.backward += len(gradient)
        passes.backward_batches += 1

    hook = model.register_forward_hook(on_forward)
    try:
        yield passes
    finally:
        hook.remove()
