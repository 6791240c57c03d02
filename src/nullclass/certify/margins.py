"""Matrices C of differences of logits, and margins of labels."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.certify.network import Network
from nullclass.certify.verifiers import Verifier


def label_spec(labels: Tensor, num_logits: int, dtype: torch.dtype) -> Tensor:
    """C with ``C z = z_y - z_j`` for every j != y, in order: ``(N, L - 1, L)``."""
    eye = torch.eye(num_logits, dtype=dtype, device=labels.device)
    classes = torch.arange(num_logits, device=labels.device).expand(len(labels), -1)
    others = classes[classes != labels[:, None]].view(len(labels), num_logits - 1)
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
