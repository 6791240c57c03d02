"""Verifiers: lower bounds of ``C z`` over a ball, sound in floating point. An open set.

A verifier may be tight or loose, never wrong. A new one: one file, one line in :data:`VERIFIERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nullclass.certify.interval import lower_bounds, reach
from nullclass.certify.network import Network
from nullclass.certify.regions import region_around
from nullclass.certify.rounding import rounding_of
from nullclass.errors import UserError

Verifier = Callable[[Network, Tensor, float, str, Tensor], Tensor]
"""From a network, images ``(N, C, H, W)`` in [0,1], a radius in pixel units, its norm and C, ``(M, L)``
or ``(N, M, L)``, to lower bounds ``(N, M)`` of ``C z`` on the images of [0,1] within the radius, z the L
logits."""


def interval(network: Network, images: Tensor, radius: float, norm: str, spec: Tensor) -> Tensor:
    """Interval bounds (:mod:`nullclass.certify.interval`); differentiable in the images."""
    rounding = rounding_of(images.dtype)
    reached = reach(network, region_around(images, radius, norm, rounding), rounding)
    return lower_bounds(reached, spec, rounding)


VERIFIERS: dict[str, Verifier] = {"interval": interval}
"""Verifiers by name."""


def find_verifier(name: str) -> Verifier:
    """The verifier of that name.

    Raises:
        UserError: If there is none.
    """
    if name not in VERIFIERS:
        raise UserError(f"there is no verifier {name!r}: choose one of {', '.join(VERIFIERS)}")
    return VERIFIERS[name]
