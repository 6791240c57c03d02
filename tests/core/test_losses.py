from __future__ import annotations

import math

import pytest
import torch

from nullclass.core.losses import cross_entropy, null_targets, soft_cross_entropy


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
    targets = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    losses = (cross_entropy(logits, torch.tensor([2])), soft_cross_entropy(logits, targets))
    for loss in losses:
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(17.0, abs=1e-4)


# Soft targets


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_soft_cross_entropy_is_the_formula(reduction: str) -> None:
    logits = 4 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor(
        [[0.0, 1.0, 0.0, 0.0], [0.7, 0.0, 0.0, 0.3], [0.25] * 4, [0.0, 0.0, 0.1, 0.9], [0, 0, 0, 1]]
    )
    expected = torch.tensor(
        [
            sum(t * brute(row, k) for k, t in enumerate(line))
            for row, line in zip(logits.tolist(), targets.tolist(), strict=True)
        ]
    )
    if reduction != "none":
        expected = getattr(expected, reduction)()
    found = soft_cross_entropy(logits, targets, reduction=reduction)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


def test_soft_cross_entropy_to_one_answer_is_cross_entropy() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, -1, -1, 2])
    targets = null_targets(labels, torch.zeros(6), 3, 1)
    torch.testing.assert_close(
        soft_cross_entropy(logits, targets, reduction="none"),
        cross_entropy(logits, labels, reduction="none"),
    )


def test_the_minimum_of_soft_cross_entropy_is_the_entropy_of_the_targets() -> None:
    targets = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
    logits = (targets.log() + 3).requires_grad_()
    loss = soft_cross_entropy(logits, targets, reduction="sum")
    entropy = -sum(p * math.log(p) for p in targets.flatten().tolist())
    assert loss.item() == pytest.approx(entropy, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def targets_by_hand(label: int, share: float, num_classes: int, num_nulls: int) -> list[float]:
    """One row of targets."""
    line = [0.0] * (num_classes + num_nulls)
    share = 1.0 if label == -1 else share
    if num_nulls == 0:
        line = [share / num_classes] * num_classes
    elif num_nulls == 1:
        line[num_classes] = share
    else:
        line[num_classes + label] = share
    if label >= 0:
        line[label] += 1 - share
    return line


@pytest.mark.parametrize("num_nulls", [0, 1, 4])
@pytest.mark.parametrize("is_soft", [True, False])
def test_null_targets_are_the_formula(num_nulls: int, is_soft: bool) -> None:
    labels = [0, 3, 2, 1, 1, *([-1, -1] if num_nulls < 2 else [3, 0])]
    shares = [0.0, 1.0, 0.25, 0.5, 0.125, 0.25, 0.0]
    given = torch.tensor(shares, dtype=torch.float64) if is_soft else None
    found = null_targets(torch.tensor(labels), given, 4, num_nulls)
    wanted = [
        targets_by_hand(label, share if is_soft else 1.0, 4, num_nulls)
        for label, share in zip(labels, shares, strict=True)
    ]
    assert found.dtype == torch.float32
    assert found.tolist() == wanted, "exactly: all are powers of two"
    assert found.sum(dim=1).tolist() == [1.0] * len(labels)
