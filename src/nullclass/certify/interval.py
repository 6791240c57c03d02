"""Interval bounds of the logits when every pixel moves within a region.

Center and radius pass through the layers together (interval bound propagation, Gowal et al. 2018,
section 3): an affine layer maps them to ``W c + b`` and ``|W| r``, a monotone one maps the corners.
The cost is about two forward passes. The last linear layer is multiplied by the matrix C of the
required bounds ``C z`` (section 3.2, "elision of the last layer"), which is tighter than bounds of
each logit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.certify.layers import Linear
from nullclass.certify.network import Network, Step
from nullclass.certify.regions import Box, Region, region_around, to_box
from nullclass.certify.rounding import Rounding, proof_dtype, round_down, rounding_for
from nullclass.core.errors import UserError


def interval_bounds(
    network: Network, images: Tensor, radius: float, norm: str, *, coarseness: float = 1
) -> Callable[[Tensor], Tensor]:
    """Interval bounds; a :data:`nullclass.certify.Verifier`, with gradients.

    Computed in the images' type, or in float64 where float32 products may be rounded differently
    (:func:`nullclass.certify.proof_dtype`).

    Args:
        network: The network.
        images: ``(N, C, H, W)`` in [0,1].
        radius: In pixel units.
        norm: ``linf`` or ``l2``.
        coarseness: Unit roundoff to assume, in units of that of the type.

    Raises:
        UserError: If device, radius or norm is invalid, or C does not fit the number of logits.
    """
    dtype = proof_dtype(images.device, images.dtype)
    rounding = rounding_for(images.to(dtype))
    rounding = Rounding(coarseness * rounding.unit, rounding.tiny)
    with torch.autocast(images.device.type, enabled=False):
        region = region_around(images.to(dtype), radius, norm, rounding)
        network = network if dtype == images.dtype else network.to(dtype)
        propagation = propagate(network, region, rounding)

    def bounds(spec: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return round_down(lower_bounds(propagation, spec.to(dtype), rounding), images.dtype)

    return bounds


@dataclass(frozen=True)
class Propagation:
    """The input box of the last layer if that is a matrix, otherwise the output box."""

    box: Box
    last: Linear | None
    """The last layer, if it is a matrix: not applied yet."""


def propagate(network: Network, region: Region, rounding: Rounding) -> Propagation:
    """Pass a region through all layers but a last matrix.

    Args:
        network: The network.
        region: The region of the images.
        rounding: Margins, or :data:`nullclass.certify.NO_ROUNDING`.
    """

    def bound(step: Step, inputs: list[Region]) -> Region:
        return step.layer.bound(*inputs, rounding=rounding)

    matrix = network.last_matrix
    num_steps = len(network.steps) if matrix is None else network.steps[-1].inputs[0] + 1
    return Propagation(to_box(network.run(region, bound, num_steps), rounding), matrix)


def lower_bounds(propagation: Propagation, spec: Tensor, rounding: Rounding) -> Tensor:
    """Lower bounds ``(N, M)`` of ``C z``, z the logits.

    Args:
        propagation: From :func:`propagate`.
        spec: C: ``(M, L)`` for all images, or ``(N, M, L)``; L logits.
        rounding: As for :func:`propagate`.

    Raises:
        UserError: If the network has another number of logits than C.
    """
    box, last = propagation.box, propagation.last
    num_logits = box.center.shape[1] if last is None else last.weight.shape[0]
    if num_logits != spec.shape[-1] or (last is None and box.center.ndim != 2):
        raise UserError(
            f"the network has {num_logits} logits, but bounds of {spec.shape[-1]} are required: "
            "give the right num_classes and has_null"
        )
    if last is None:
        width = num_logits
        middle = _product(spec, box.center)
        spread = _product(spec.abs(), box.radius)
    else:
        width = last.weight.shape[1] + num_logits
        middle = _product(spec, last.value(box.center))
        spread = _product((spec @ last.weight).abs(), box.radius)
    if not rounding.unit:
        return middle - spread
    gamma = rounding.gamma(width)
    size = box.center.abs() + box.radius
    if last is None:
        error = _product(spec.abs(), size) * gamma
    else:
        # |W| |c| + |b| bounds the rounding of the logits at the center and of both products.
        bias = 0 if last.bias is None else last.bias.abs()
        error = _product(spec.abs(), size @ last.weight.abs().T + bias) * (2 * gamma)
    return middle - (spread * (1 + 2 * gamma) + error * (1 + 2 * gamma)) - rounding.tiny


def _product(spec: Tensor, values: Tensor) -> Tensor:
    """``C v`` of values ``(N, L)``."""
    if spec.ndim == 2:
        return values @ spec.T
    return (spec * values[:, None]).sum(dim=2)  # faster than many small products of matrices
