"""What is asked about the logits: by how much one answer is sure to beat the others."""

from __future__ import annotations

import torch
from torch import Tensor

from nullclass.certify.network import Network
from nullclass.certify.verifiers import Verifier


def spec_of_labels(labels: Tensor, num_logits: int, dtype: torch.dtype) -> Tensor:
    """C with ``C z = z_y - z_j`` for every j but y: ``(N, L - 1, L)``, j rising."""
    own = torch.eye(num_logits, dtype=dtype, device=labels.device)[labels]
    others = torch.arange(num_logits, device=labels.device).expand(len(labels), -1)
    others = others[others != labels[:, None]].view(len(labels), num_logits - 1)
    return own[:, None, :] - torch.eye(num_logits, dtype=dtype, device=labels.device)[others]


def spec_of_pairs(num_logits: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """C with ``C z = z_k - z_j`` for all k and j: ``(L * L, L)``, k first; 0 where they are one."""
    eye = torch.eye(num_logits, dtype=dtype, device=device)
    return (eye[:, None, :] - eye[None, :, :]).reshape(-1, num_logits)


def margins(
    network: Network,
    images: Tensor,
    labels: Tensor,
    radius: float,
    *,
    norm: str = "linf",
    verifier: Verifier,
) -> Tensor:
    """By how much each label's logit is sure to beat every other: positive is proved.

    Args:
        network: The network, L logits.
        images: ``(N, C, H, W)`` in [0,1].
        labels: ``(N,)`` in 0 … L - 1.
        radius: In pixel units.
        norm: ``linf`` or ``l2``.
        verifier: From :data:`nullclass.certify.verifiers.VERIFIERS`.

    Returns:
        ``(N,)``: lower bounds of ``min_j z_y - z_j`` over the ball.
    """
    num_logits = network.num_logits
    spec = spec_of_labels(labels, num_logits, images.dtype)
    return verifier(network, images, radius, norm, spec).amin(dim=1)
