"""An attack for the images whose loss has a zero gradient.

Gradients that are exactly zero are the simplest form of masking (Athalye et al. 2018): attacks that
follow gradients cannot move. Where there is a gradient, such attacks are far cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.attacks.base import Access, Attack, BaseAttack, check_attack, supported_norms
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState
from nullclass.attacks.steps import NoGradientError, has_direction


@dataclass(frozen=True)
class OnZeroGradient(BaseAttack):
    """Runs an attack on images without a gradient of the logsumexp margin, and on no others."""

    attack: Attack
    """The attack."""

    def __post_init__(self) -> None:
        """Check the attack."""
        check_attack(self.attack)

    @property
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]
        """The norms the attack supports."""
        return supported_norms(self.attack)

    @property
    def objective(self) -> ObjectiveName:  # type: ignore[override]
        """The attack's objective."""
        return self.attack.objective

    @property
    def access(self) -> Access:  # type: ignore[override]
        """What the attack uses; the gradient only decides whether it runs."""
        return self.attack.access

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        has_gradient, loss = torch.zeros_like(state.active), state.loss("logsumexp-margin")
        try:
            for indices in state.batches():
                _, gradient, _ = state.forward_backward(indices, state.images[indices], loss)
                has_gradient[indices] = has_direction(gradient)
        except NoGradientError:
            state.evaluate_clean(loss)
        chosen = state.active & ~has_gradient
        if bool(chosen.any()):
            eps = state.eps
            state.adv_images[chosen] = self.attack(
                state.model,
                state.images[chosen],
                state.labels[chosen],
                eps=eps[chosen] if isinstance(eps, Tensor) else eps,
                norm=state.norm_name,
                generator=generator,
                batch_size=state.batch_size,
            )
