"""Cross-entropy with null, and training targets on null."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def cross_entropy(logits: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Cross-entropy in which any negative label means null, the last logit.

    Args:
        logits: ``(N, K + 1)``, or ``(N, K)`` if no label is negative. Computed in float32.
        labels: ``(N,)`` int64; negative for null.
        reduction: As in :func:`torch.nn.functional.cross_entropy`.
    """
    targets = labels.where(labels >= 0, logits.shape[1] - 1)
    return F.cross_entropy(logits.float(), targets, reduction=reduction)


def soft_cross_entropy(logits: Tensor, targets: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Cross-entropy to a distribution: ``-sum_k targets_k log softmax(logits)_k``.

    Args:
        logits: ``(N, L)``. Computed in float32.
        targets: ``(N, L)``, each row a distribution (see :func:`null_targets`).
        reduction: As in :func:`torch.nn.functional.cross_entropy`.
    """
    return F.cross_entropy(logits.float(), targets.float(), reduction=reduction)


def null_targets(labels: Tensor, shares: Tensor | None, num_classes: int, num_nulls: int) -> Tensor:
    """Return targets with a share on null and the rest on the true label.

        t = (1 - p) onehot(y) + p null         (Hosseini et al. 2017, step 3)

    The share of null goes to the null logit; with one null logit per class (2N labelling), to that
    of the label; without null logits, uniformly to all classes (outlier exposure, Hendrycks et al.
    2019; CCAT, Stutz et al. 2020), for a threshold to refuse.

    Args:
        labels: ``(N,)`` true labels in 0 … K - 1; negative for null, with p = 1.
        shares: ``(N,)`` in [0,1], p; ``None`` for 1.
        num_classes: K.
        num_nulls: 0, 1 or K null logits, after those of the classes.

    Returns:
        ``(N, K + num_nulls)`` float32, each row a distribution.

    Raises:
        ValueError: If a label is negative and there are several null logits.
    """
    if num_nulls > 1 and bool((labels < 0).any()):
        raise ValueError("a negative label belongs to no class, so it has no null logit of its own")
    ones = torch.ones(labels.shape, device=labels.device)
    shares = ones if shares is None else shares.float().where(labels >= 0, 1.0)
    targets = torch.zeros(len(labels), num_classes + num_nulls, device=labels.device)
    if num_nulls == 0:
        targets += shares[:, None] / num_classes
    else:
        columns = num_classes + (labels if num_nulls > 1 else torch.zeros_like(labels))
        targets.scatter_(1, columns[:, None], shares[:, None])
    return targets.scatter_add_(1, labels.clamp(min=0)[:, None], 1 - shares[:, None])
