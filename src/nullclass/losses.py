"""What training minimises, and what the notebook's FGSM climbs."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, labels: Tensor, *, reduction: Literal["mean", "sum", "none"] = "mean"
) -> Tensor:
    """Cross-entropy in which any negative label means null, the last logit.

    Args:
        logits: ``(N, K + 1)``, or ``(N, K)`` if no label is negative. Computed in float32.
        labels: ``(N,)`` int64; negative for null.
        reduction: As in :func:`torch.nn.functional.cross_entropy`.
    """
    targets = labels.where(labels >= 0, logits.shape[1] - 1)
    return F.cross_entropy(logits.float(), targets, reduction=reduction)
