"""Interval bounds: what the logits can be when every pixel moves within a region.

Centre and radius go through the layers together (interval bound propagation, Gowal et al. 2018,
section 3): an affine layer maps them to ``W c + b`` and ``|W| r``, a monotone one maps the corners.
So bounds cost about two forward passes. The last affine layer is folded into what is asked about
the logits, ``C z`` (Gowal et al. 2018, section 3.2, "elision of the last layer"), which is tighter
than bounding every logit by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.certify.layers import Linear, boxed
from nullclass.certify.network import Network, Step
from nullclass.certify.regions import Box, Region, region_around
from nullclass.certify.rounding import Rounding, proof_dtype, rounded_down, rounding_for
from nullclass.core.errors import UserError

Watch = Callable[[Step, list[Region], Box], None]
"""Told every layer, the regions of its inputs and the box of its output."""


def interval(network: Network, images: Tensor, radius: float, norm: str, spec: Tensor) -> Tensor:
    """Interval bounds; a :data:`nullclass.certify.verifiers.Verifier`, with gradients.

    Computed in the images' type; in float64 where products of float32 may be rounded in other ways
    (:func:`nullclass.certify.rounding.proof_dtype`).

    Raises:
        UserError: If the device, the radius or the norm has no bounds, or the network has another
            number of logits than C.
    """
    dtype = proof_dtype(images.device, images.dtype)
    if dtype != images.dtype:
        expand_eps = network.to(dtype)
        bounds = interval(expand_eps, images.to(dtype), radius, norm, spec.to(dtype))
        return rounded_down(bounds, images.dtype)
    with torch.autocast(images.device.type, enabled=False):
        rounding = rounding_for(images)
        reached = reach(network, region_around(images, radius, norm, rounding), rounding)
        return lower_bounds(reached, spec, rounding)


@dataclass(frozen=True)
class Propagation:
    """What the network's last layer gets, or, if that is not affine, what it gives."""

    box: Box
    last: Linear | None
    """The last layer, if it is a matrix: still to be applied."""


def reach(
    network: Network, region: Region, rounding: Rounding, watch: Watch | None = None
) -> Propagation:
    """Send a region through all layers but a last matrix.

    Args:
        network: The network.
        region: Where the images are.
        rounding: Margins; :data:`nullclass.certify.rounding.NONE` for none.
        watch: Told of every layer's inputs and output, for regularisers that look at it.
    """

    def each(step: Step, inputs: list[Region]) -> Region:
        bound = step.layer.bound(*inputs, rounding=rounding)
        if watch is not None and isinstance(bound, Box):
            watch(step, inputs, bound)
        return bound

    last = network.steps[-1].layer
    is_folded = isinstance(last, Linear) and last.weight.ndim == 2 and len(network.steps) > 1
    if not is_folded:
        box = boxed(network.run(region, each, num_steps=len(network.steps)), rounding)
        return Propagation(box, None)
    before = network.run(region, each, num_steps=network.steps[-1].inputs[0] + 1)
    assert isinstance(last, Linear)
    return Propagation(boxed(before, rounding), last)


def lower_bounds(reached: Propagation, spec: Tensor, rounding: Rounding) -> Tensor:
    """Lower bounds of ``C z``, z the logits.

    Args:
        reached: From :func:`reach`.
        spec: C: ``(M, L)`` for all images, or ``(N, M, L)``, one for each; L logits.
        rounding: Margins, as for :func:`reach`.

    Returns:
        ``(N, M)``.

    Raises:
        UserError: If the network has another number of logits than C.
    """
    box, last = reached.box, reached.last
    num_logits = box.center.shape[1] if last is None else last.weight.shape[0]
    if num_logits != spec.shape[-1] or (last is None and box.center.ndim != 2):
        raise UserError(
            f"the network gives {num_logits} logits, but bounds were asked of {spec.shape[-1]}: "
            "give the right num_classes and has_null"
        )
    if last is None:
        width = num_logits
        middle = _applied(spec, box.center)
        spread = _applied(spec.abs(), box.radius)
    else:
        weight = last.weight
        width = weight.shape[1] + num_logits
        middle = _applied(spec, last.value(box.center))
        spread = _applied((spec @ weight).abs(), box.radius)
    if not rounding.unit:
        return middle - spread
    gamma = rounding.gamma(width)
    if last is None:
        error = _applied(spec.abs(), box.center.abs() + box.radius) * gamma
    else:
        # |W| |c| + |b|: all that the logits at the centre, the fold and their products round.
        bias = 0 if last.bias is None else last.bias.abs()
        size = (box.center.abs() + box.radius) @ weight.abs().T + bias
        error = _applied(spec.abs(), size) * (2 * gamma)
    return middle - (spread * (1 + 2 * gamma) + error * (1 + 2 * gamma)) - rounding.tiny


def _applied(spec: Tensor, values: Tensor) -> Tensor:
    """``C v`` for ``(N, L)`` values."""
    if spec.ndim == 2:
        return values @ spec.T
    return torch.einsum("nml,nl->nm", spec, values)
