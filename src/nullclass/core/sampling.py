"""Samples of images that depend on nothing but the images. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable


def evenly(images: Iterable[int], num: int) -> list[int]:
    """Return at most ``num`` of the indices, evenly from first to last."""
    indices = sorted({int(image) for image in images})
    if len(indices) <= num:
        return indices
    return [indices[(2 * n + 1) * len(indices) // (2 * num)] for n in range(num)]
