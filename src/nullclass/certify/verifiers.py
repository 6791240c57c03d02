"""Verifiers: lower bounds of ``C z`` over a ball, sound in floating point. An open set.

A verifier may be tight or loose, never wrong. A new one: one file, one line in :data:`VERIFIERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nullclass.certify.crown import crown_ibp
from nullclass.certify.interval import interval
from nullclass.certify.network import Network
from nullclass.core.errors import UserError

Verifier = Callable[[Network, Tensor, float, str, Tensor], Tensor]
"""From a network, images ``(N, C, H, W)`` in [0,1], a radius in pixel units, its norm and C,
``(M, L)`` or ``(N, M, L)``, to lower bounds ``(N, M)`` of ``C z`` on the images of [0,1] within the
radius, z the L logits."""


VERIFIERS: dict[str, Verifier] = {"interval": interval, "crown-ibp": crown_ibp}
"""Verifiers by name."""


def find_verifier(name: str) -> Verifier:
    """The verifier of that name.

    Raises:
        UserError: If there is none.
    """
    if name not in VERIFIERS:
        raise UserError(f"there is no verifier {name!r}: choose one of {', '.join(VERIFIERS)}")
    return VERIFIERS[name]
