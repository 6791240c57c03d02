"""Rejection scores computed from the logits alone; larger for more null.

    softmax       -log max_k p_k, p = softmax(z)        (Hendrycks & Gimpel 2017)
    margin        z_(2) - z_(1), the two largest logits
    energy        -logsumexp_k z_k                      (Liu et al. 2020, eq. 4, T = 1)
    entropy       -sum_k p_k log p_k
    null-logit    z_null - max_k z_k, for a classifier with null

All are differentiable.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nullclass.core.outcomes import check_logits
from nullclass.models.classifier import at_least_float32


def softmax_score(logits: Tensor) -> Tensor:
    """Return ``-log max_k p_k``, ``(N,)``, of logits ``(N, K)``.

    In [0, log K], and accurate also where the largest probability is within rounding of 1.
    """
    top = logits.max(dim=1, keepdim=True)
    others = (logits - top.values).scatter(1, top.indices, -torch.inf)
    return others.exp().sum(dim=1).log1p()


def margin_score(logits: Tensor) -> Tensor:
    """Return the second largest logit minus the largest, ``(N,)``, of logits ``(N, K)``."""
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    return second - first


def energy_score(logits: Tensor) -> Tensor:
    """Return the energy ``-logsumexp_k z_k``, ``(N,)``, of logits ``(N, K)``."""
    return -logits.logsumexp(dim=1)


def entropy_score(logits: Tensor) -> Tensor:
    """Return the entropy of softmax, ``(N,)`` in [0, log K], of logits ``(N, K)``."""
    log_probabilities = logits.log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def null_logit_score(logits: Tensor) -> Tensor:
    """Return ``z_null - max_k z_k``, ``(N,)``, of logits ``(N, K + 1)`` with null last."""
    return logits[:, -1] - logits[:, :-1].amax(dim=1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": softmax_score,
    "margin": margin_score,
    "energy": energy_score,
    "entropy": entropy_score,
    "null-logit": null_logit_score,
}
"""The scores by name: logits, at least float32, to scores ``(N,)``."""


def null_scores(logits: Tensor, num_classes: int) -> Tensor:
    """Return null scores: ``null-logit``, or without a null logit ``softmax``.

    Args:
        logits: ``(N, K)``, or ``(N, K + 1)`` with null last.
        num_classes: K.

    Returns:
        ``(N,)`` in the logits' type, at least float32. With a null logit positive if argmax is null
        (the first of equal logits wins).

    Raises:
        ValueError: If the logits have neither K nor K + 1 columns.
    """
    check_logits(logits, num_classes)
    score = null_logit_score if logits.shape[1] > num_classes else softmax_score
    return score(at_least_float32(logits))
