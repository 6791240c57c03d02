"""Verifiers by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from nullclass.certify.cascade import CASCADE, cascade_bounds
from nullclass.certify.crown import crown_ibp_bounds
from nullclass.certify.interval import interval_bounds
from nullclass.certify.network import Network
from nullclass.core.checks import check_choice

Verifier = Callable[[Network, Tensor, float, str], Callable[[Tensor], Tensor]]
"""Maps a network, images ``(N, C, H, W)`` in [0,1], a radius in pixel units and its norm to a
function from C, ``(M, L)`` or ``(N, M, L)``, to lower bounds ``(N, M)`` of ``C z`` over the images
of [0,1] within the radius, z the L logits. Sound in floating point."""

VERIFIERS: dict[str, Verifier] = {
    "interval": interval_bounds,
    "crown-ibp": crown_ibp_bounds,
    CASCADE: cascade_bounds,
}
"""All verifiers."""


def find_verifier(name: str, budget: int | None = None) -> Verifier:
    """The verifier with this name.

    Args:
        name: Name in :data:`VERIFIERS`.
        budget: Of the cascade, if it is another than the default; the others have none.

    Raises:
        UserError: If there is none.
    """
    verifier = VERIFIERS[check_choice("verifier", name, VERIFIERS)]
    if verifier is cascade_bounds and budget is not None:
        return partial(cascade_bounds, budget=budget)
    return verifier
