"""Randomness is an argument; where torch insists on its global stream, it is borrowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fork_rng(seed: int) -> Iterator[None]:
    """Seed torch's global streams inside the block and put them back after it.

    Initialisation and dropout draw from the global stream; the caller's own draws
    go on after the block as if it had not been there.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
