"""Samples of images."""

from __future__ import annotations

from nullclass.core.sampling import evenly


def test_evenly() -> None:
    assert evenly(range(10), 20) == list(range(10))
    assert evenly({7, 3, 5}, 2) == [3, 7]
    assert evenly(range(100), 4) == [12, 37, 62, 87]
    assert evenly([], 4) == []
