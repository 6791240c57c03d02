"""Seeds for code that draws from torch's global generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fork_rng(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore their states after it.

    Initialisation and dropout draw from them; other randomness takes a generator as an argument.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
