"""Modules that are used without being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def searched(model: nn.Module, is_searched: bool = True) -> Iterator[None]:
    """Let a model whose answers need a search answer by its first stage alone inside the block.

    Attacks look for images inside it, and evaluate what they find outside, or inside a block with
    ``is_searched=False``.
    """
    searching: list[Any] = [m for m in model.modules() if hasattr(m, "is_searched")]
    before = [module.is_searched for module in searching]
    try:
        for module in searching:
            module.is_searched = is_searched
        yield
    finally:
        for module, was_searched in zip(searching, before, strict=True):
            module.is_searched = was_searched


def _evaluate(module: nn.Module) -> None:
    try:
        module.eval()
    except NotImplementedError:  # a graph of torch.export has one mode
        for child in module.children():
            _evaluate(child)
