"""Certificates for a null class that was learned: is every real class j but y beaten for sure?

An image is not fooled if the larger of ``z_y`` and ``z_null`` is above every other real logit. It
need not be the same one of the two everywhere in the ball, so lower bounds of each prove little.
But the larger one is at least any mix of both: if for every real j != y some lambda in [0, 1] has

    min over the ball of   lambda z_y + (1 - lambda) z_null - z_j   > 0,

no image of the ball is fooled (the dual of Sheikholeslami et al. 2021, "Provably robust
classification of adversarial examples with detection", section 4, there for interval bounds and one
lambda in training). The lower bound of a mix is concave in lambda, so bisection finds the best; any
lambda is sound. Lambdas are multiples of 1/1024, exact in floating point together with 1 - lambda:
the mix stays a mean.

Of several null logits (twins) any may serve, so the best is taken.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nullclass.certify.interval import lower_bounds, reach
from nullclass.certify.network import Network
from nullclass.certify.regions import region_around
from nullclass.certify.rounding import Rounding, rounding_for
from nullclass.certify.verifiers import VERIFIERS, Verifier

STEPS = 10
"""Bisections of lambda's 1024 steps."""

Bounds = Callable[[Tensor], Tensor]
"""Spec ``(N, M, L)`` to lower bounds ``(N, M)``."""


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
    rounding: Rounding | None = None,
) -> Tensor:
    """By how much the true label or null is sure to beat every other real class.

    Args:
        network: L logits: K real ones, then one null or several.
        images: ``(N, C, H, W)`` in [0,1].
        labels: ``(N,)``, y, in 0 … K - 1.
        radius: In pixel units.
        num_classes: K.
        norm: ``linf`` or ``l2``.
        verifier: From :data:`nullclass.certify.verifiers.VERIFIERS`.
        rounding: Margins of interval bounds other than those of the images' type.

    Returns:
        ``(N,)``: lower bounds of ``min_j max_lambda min_ball``; positive is proved.
    """
    bounds = _bounds(network, images, radius, norm, verifier, rounding)
    num_nulls = network.num_logits - num_classes
    device = images.device
    others = torch.arange(num_classes, device=device).expand(len(labels), -1)
    others = others[others != labels[:, None]].view(len(labels), num_classes - 1)
    nulls = num_classes + torch.arange(num_nulls, device=device)
    # Each rival with each null: (N, (K - 1) M).
    others = others.repeat_interleave(num_nulls, dim=1)
    beside = nulls.repeat(num_classes - 1).expand_as(others)
    eye = torch.eye(network.num_logits, dtype=images.dtype, device=device)
    own, null, rival = eye[labels][:, None], eye[beside], eye[others]

    def at(place: Tensor) -> Tensor:
        share = (place.to(images.dtype) / 2**STEPS)[:, :, None]
        return bounds(share * own + (1 - share) * null - rival)

    low = torch.zeros_like(others)
    high = torch.full_like(others, 2**STEPS)
    best = torch.maximum(at(low), at(high))
    for _ in range(STEPS):
        middle = (low + high) // 2
        here, further = at(middle), at(middle + 1)
        best = torch.maximum(best, torch.maximum(here, further))
        rises = further > here
        low, high = torch.where(rises, middle + 1, low), torch.where(rises, high, middle)
    by_rival = best.view(len(labels), num_classes - 1, num_nulls)
    return by_rival.amax(dim=2).amin(dim=1)


def _bounds(
    network: Network,
    images: Tensor,
    radius: float,
    norm: str,
    verifier: Verifier,
    rounding: Rounding | None,
) -> Bounds:
    """Bounds of any spec; for interval bounds the layers before the last are gone through once."""
    if verifier is not VERIFIERS["interval"]:
        return lambda spec: verifier(network, images, radius, norm, spec)
    margin = rounding_for(images) if rounding is None else rounding
    reached = reach(network, region_around(images, radius, norm, margin), margin)
    return lambda spec: lower_bounds(reached, spec, margin)
