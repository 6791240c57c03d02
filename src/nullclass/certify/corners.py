"""Interval bounds by lower and upper corners instead of center and radius, as a second opinion.

    lower' = W+ lower + W- upper + b,        upper' = W+ upper + W- lower + b

(W+ and W- the positive and negative part of W). The set is the same as in
:mod:`nullclass.certify.interval`, computed differently and without margins for rounding: for
float64 and small networks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nullclass.certify.layers import Linear, Scale, Sum
from nullclass.certify.network import Network, Step

Corners = tuple[Tensor, Tensor]


@torch.no_grad()
def corner_margins(network: Network, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Lower bounds ``(N,)`` of ``min_j z_y - z_j`` over the L∞ ball in [0,1].

    Args:
        network: The network.
        images: ``(N, C, H, W)`` in [0,1].
        labels: ``(N,)``, y.
        radius: In pixel units.
    """
    corners = (images - radius).clamp(min=0), (images + radius).clamp(max=1)
    rows = torch.arange(len(labels))
    last = network.last_matrix
    if last is None:
        lower, upper = network.run(corners, _corners_of)
        margins = lower[rows, labels][:, None] - upper
    else:
        lower, upper = network.run(corners, _corners_of, network.steps[-1].inputs[0] + 1)
        differences = last.weight[labels][:, None, :] - last.weight[None]
        margins = torch.einsum("njf,nf->nj", differences.clamp(min=0), lower)
        margins += torch.einsum("njf,nf->nj", differences.clamp(max=0), upper)
        if last.bias is not None:
            margins += last.bias[labels][:, None] - last.bias
    margins[rows, labels] = torch.inf
    result: Tensor = margins.amin(dim=1)
    return result


def _corners_of(step: Step, inputs: list[Any]) -> Corners:
    layer = step.layer
    lower, upper = inputs[0]
    if isinstance(layer, Linear):
        positive, negative = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
        below = layer.apply(lower, positive, layer.bias) + layer.apply(upper, negative, None)
        above = layer.apply(upper, positive, layer.bias) + layer.apply(lower, negative, None)
        return below, above
    if isinstance(layer, Scale):
        one, other = layer.value(lower), layer.value(upper)
        return torch.minimum(one, other), torch.maximum(one, other)
    if isinstance(layer, Sum):
        second_lower, second_upper = inputs[1] if layer.sign > 0 else inputs[1][::-1]
        return lower + layer.sign * second_lower, upper + layer.sign * second_upper
    return layer.value(lower), layer.value(upper)  # all others are monotone
