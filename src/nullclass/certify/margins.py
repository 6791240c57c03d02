"""Margins of labels over a ball, and the matrices C of differences of logits that they need.

*A learned null class.* An image is not fooled if the larger of ``z_y`` and ``z_null`` is above
every other real logit. Which of the two is larger may vary over the ball, so lower bounds of each
alone prove little. But the larger one is at least any convex combination. If for every real j != y
some lambda in [0, 1] has

    min over the ball of   lambda z_y + (1 - lambda) z_null - z_j   > 0,

no image of the ball is fooled (the dual of Sheikholeslami et al. 2021, "Provably robust
classification of adversarial examples with detection", section 4; there for interval bounds and one
lambda in training). The lower bound is concave in lambda, so bisection finds the best; any lambda
is sound. Lambdas are multiples of 1/1024, for which lambda and 1 - lambda are exact.

With several null logits the best one is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.certify.network import Network
from nullclass.certify.verifiers import Verifier

NUM_BISECTIONS = 10
"""Of the 1024 steps of lambda."""


def label_spec(labels: Tensor, num_logits: int, dtype: torch.dtype) -> Tensor:
    """C with ``C z = z_y - z_j`` for every j != y, in order: ``(N, L - 1, L)``."""
    eye = torch.eye(num_logits, dtype=dtype, device=labels.device)
    others = torch.arange(num_logits - 1, device=labels.device)
    others = others + (others >= labels[:, None])
    return eye[labels][:, None, :] - eye[others]


def pair_spec(num_logits: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """C with ``C z = z_k - z_j`` for all k and j, k first, 0 for k = j: ``(L * L, L)``."""
    eye = torch.eye(num_logits, dtype=dtype, device=device)
    return (eye[:, None, :] - eye[None, :, :]).reshape(-1, num_logits)


def label_margins(
    network: Network,
    images: Tensor,
    labels: Tensor,
    radius: float,
    *,
    norm: str = "linf",
    verifier: Verifier,
) -> Tensor:
    """Lower bounds ``(N,)`` of ``min_j z_y - z_j`` over the ball; positive means y is proved.

    Args:
        network: The network, L logits.
        images: ``(N, C, H, W)`` in [0,1].
        labels: ``(N,)`` in 0 … L - 1.
        radius: In pixel units.
        norm: ``linf`` or ``l2``.
        verifier: From :data:`nullclass.certify.VERIFIERS`.
    """
    spec = label_spec(labels, network.num_logits, images.dtype)
    return verifier(network, images, radius, norm)(spec).amin(dim=1)


@torch.no_grad()
def not_fooled_margins(
    network: Network,
    images: Tensor,
    labels: Tensor,
    radius: float,
    *,
    num_classes: int,
    norm: str = "linf",
    verifier: Verifier,
) -> Tensor:
    """Lower bounds ``(N,)`` of ``min_j max_lambda min_ball``; positive means never fooled.

    Args:
        network: L logits: K real ones, then one null or several.
        images: ``(N, C, H, W)`` in [0,1].
        labels: ``(N,)``, y, in 0 … K - 1.
        radius: In pixel units.
        num_classes: K.
        norm: ``linf`` or ``l2``.
        verifier: From :data:`nullclass.certify.VERIFIERS`.
    """
    bounds = verifier(network, images, radius, norm)
    num_nulls = network.num_logits - num_classes
    eye = torch.eye(network.num_logits, dtype=images.dtype, device=images.device)
    classes = torch.arange(num_classes, device=images.device).expand(len(labels), -1)
    rivals = classes[classes != labels[:, None]].view(len(labels), num_classes - 1)
    # Each rival with each null: (N, (K - 1) M).
    nulls = torch.arange(num_classes, network.num_logits, device=images.device)
    rivals = rivals.repeat_interleave(num_nulls, dim=1)
    nulls = nulls.repeat(num_classes - 1).expand_as(rivals)
    own, null, rival = eye[labels][:, None], eye[nulls], eye[rivals]

    def bound_at(step: Tensor) -> Tensor:
        weight = (step.to(images.dtype) / 2**NUM_BISECTIONS)[:, :, None]
        return bounds(weight * own + (1 - weight) * null - rival)

    low = torch.zeros_like(rivals)
    high = torch.full_like(rivals, 2**NUM_BISECTIONS)
    best = torch.maximum(bound_at(low), bound_at(high))
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) // 2
        here, next_ = bound_at(middle), bound_at(middle + 1)
        best = torch.maximum(best, torch.maximum(here, next_))
        rises = next_ > here
        low, high = torch.where(rises, middle + 1, low), torch.where(rises, high, middle)
    return best.view(len(labels), num_classes - 1, num_nulls).amax(dim=2).amin(dim=1)
