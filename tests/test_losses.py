from __future__ import annotations

import math

import pytest
import torch

from nullclass.losses import cross_entropy


def brute(row: list[float], target: int) -> float:
    return math.log(sum(math.exp(z) for z in row)) - row[target]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_any_negative_label_is_the_last_logit(reduction: str) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, -1, -7, 1])
    expected = torch.tensor(
        [brute(row, t) for row, t in zip(logits.tolist(), [0, 2, 3, 3, 1], strict=True)]
    )
    if reduction != "none":
        expected = getattr(expected, reduction)()
    found = cross_entropy(logits, labels, reduction=reduction)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)
    assert labels.tolist() == [0, 2, -1, -7, 1]


def test_half_precision_logits_are_scored_in_float32() -> None:
    logits = torch.tensor([[20.0, -20.0, 3.0]], dtype=torch.bfloat16)
    loss = cross_entropy(logits, torch.tensor([2]))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(17.0, abs=1e-4)
