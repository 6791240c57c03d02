"""Interval bounds once more, by lower and upper corners instead of centre and radius.

    lower' = W+ lower + W- upper + b,        upper' = W+ upper + W- lower + b

(W+ and W- the positive and the negative part of W). The same set as
:mod:`nullclass.certify.interval` bounds, computed in another way and without margins for rounding:
float64 on small networks, to check the other by.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nullclass.certify.layers import Added, Linear, Monotone, Pooled, Reshaped, Scale
from nullclass.certify.network import Network, Step

Corners = tuple[Tensor, Tensor]


@torch.no_grad()
def corner_margins(network: Network, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Lower bounds of ``min_j z_y - z_j`` over the L∞ ball in [0,1]; ``(N,)``.

    Args:
        network: The network.
        images: ``(N, C, H, W)`` in [0,1].
        labels: ``(N,)``, y.
        radius: In pixel units.
    """
    corners = (images - radius).clamp(min=0), (images + radius).clamp(max=1)
    last = network.steps[-1].layer
    rows = torch.arange(len(labels))
    if isinstance(last, Linear) and last.weight.ndim == 2 and len(network.steps) > 1:
        num_steps = network.steps[-1].inputs[0] + 1
        lower, upper = network.run(corners, _corners_of, num_steps=num_steps)
        differences = last.weight[labels][:, None, :] - last.weight[None]
        margins = torch.einsum("njf,nf->nj", differences.clamp(min=0), lower)
        margins += torch.einsum("njf,nf->nj", differences.clamp(max=0), upper)
        if last.bias is not None:
            margins += last.bias[labels][:, None] - last.bias
    else:
        lower, upper = network.run(corners, _corners_of, num_steps=len(network.steps))
        margins = lower[rows, labels][:, None] - upper
    margins[rows, labels] = torch.inf
    return margins.amin(dim=1)


def _corners_of(step: Step, inputs: list[Any]) -> Corners:
    layer = step.layer
    lower, upper = inputs[0]
    if isinstance(layer, Linear):
        up, down = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
        below = layer.apply(lower, up, layer.bias) + layer.apply(upper, down, None)
        above = layer.apply(upper, up, layer.bias) + layer.apply(lower, down, None)
        return below, above
    if isinstance(layer, Scale):
        one, other = layer.value(lower), layer.value(upper)
        return torch.minimum(one, other), torch.maximum(one, other)
    if isinstance(layer, Added):
        lower_too, upper_too = inputs[1] if layer.sign > 0 else inputs[1][::-1]
        return lower + layer.sign * lower_too, upper + layer.sign * upper_too
    assert isinstance(layer, Monotone | Pooled | Reshaped)
    return layer.value(lower), layer.value(upper)
