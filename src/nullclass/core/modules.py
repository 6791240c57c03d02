"""Modules that are used without being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode without parameter gradients inside the block, and back after it."""
    modes = [(part, part.training) for part in model.modules() if hasattr(part, "training")]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        _evaluate(model)
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, was_training in modes:
            module.training = was_training


def _evaluate(module: nn.Module) -> None:
    try:
        module.eval()
    except NotImplementedError:  # a graph of torch.export has one mode
        for child in module.children():
            _evaluate(child)
