"""Takes the answer away from a model that answers what holds within a radius: forces null.

Such a model (:class:`nullclass.rejection.ProvableNull`, ``SmoothedNull``, ``ConsistentNull``) is
null at x' where B(x', r) holds an image that the network inside puts into another class. So the
attacker looks for it beyond eps and stops on the way:

    a   an image within eps + r of x that the network misclassifies
    x'  = x + eps / (eps + r) (a - x)

x' is within eps of x, a within r of x', and both in [0,1], which is convex. No verifier, however
tight, proves the class of x then. Attacks that climb through the bounds of a verifier find where
its first bounds are loose; a later stage may prove the class there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nullclass.attacks.base import Attack, WrappedAttack
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState
from nullclass.core.errors import UserError
from nullclass.core.norms import expand_eps
from nullclass.models.classifier import network_inside


@dataclass(frozen=True)
class BeyondRadius(WrappedAttack):
    """Runs an attack on the network, within eps + r, and goes back to eps; others are left alone.

    Models without a radius, or with one in another norm, are not attacked.
    """

    attack: Attack
    """With the objective ``fool``."""

    def __post_init__(self) -> None:
        """Check the attack."""
        super().__post_init__()
        if self.attack.objective != "fool":
            raise UserError("what lies beyond the radius is an image that fools the network")

    @property
    def objective(self) -> ObjectiveName:  # type: ignore[override]
        """``force-null``, by an attack that fools the network."""
        return "force-null"

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        radius, norm = (getattr(state.model, name, None) for name in ("radius", "norm"))
        chosen = state.active.nonzero().squeeze(1)
        if radius is None or norm != state.norm_name or not len(chosen):
            return
        images, network = state.images[chosen], network_inside(state.model)
        eps = torch.as_tensor(state.eps_at(chosen)).to(images)
        largest = state.norm.largest(images[0].numel())
        beyond = (eps + radius).clamp(max=largest).expand(len(chosen))
        found = state.attack_some(self.attack, network, chosen, generator, eps=beyond)
        share = expand_eps(eps / beyond, images)
        near = state.norm.project(images + share * (found - images), images, state.eps_at(chosen))
        state.evaluate_all(chosen, near)
