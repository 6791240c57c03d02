"""Whole-ball PGD: images around which the network is wrong everywhere within a radius.

A consistency rule answers at x' only if an inner attack within r of x' finds no other class
(:class:`nullclass.rejection.ConsistentNull`; proofs are of the same kind). So the attacker looks
for an image of which the whole inner ball has one wrong class t:

    max_{x' in B(x, eps)}  min_{x'' in B(x', r)}  z_t(x'') - max_{k != t} z_k(x'')

z are the logits of the network inside the model. The inner point follows the outer one and takes a
few steps down per step up (free adversarial training, Shafahi et al. 2019, does so with weights);
its offset is constant in the outer gradient. Success is decided by the model itself. Other attacks
climb through the rule's score, whose inner attack begins anew at every x'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nullclass.attacks.base import BaseAttack
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState, IndexedLoss
from nullclass.attacks.steps import add_momentum, ascend, input_gradient
from nullclass.core.norms import expand_eps
from nullclass.models.classifier import Classifier, network_inside

CHECK_EVERY = 5
"""Outer steps between two evaluations of the model, whose rule costs many passes."""


@dataclass(frozen=True)
class WholeBallPGD(BaseAttack):
    """PGD on the smallest margin of a target within a radius.

    Settings: see :class:`nullclass.attacks.base.BaseAttack`.
    """

    radius: float | None = None
    """r in pixel units. Default: half of eps, the radius that protects most against eps."""
    num_steps: int = 40
    """Outer steps per target, falling as a cosine from 0.2 eps to a tenth of it."""
    num_inner_steps: int = 3
    """Steps of the inner point per outer step, of r / 4."""
    num_targets: int | None = 3
    momentum: float = 0.75
    objective: ObjectiveName = field(default="fool", init=False)

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        state.evaluate_clean()
        network = network_inside(state.model)
        for loss in state.target_losses(self.num_targets, "logsumexp-margin"):
            for indices in state.batches():
                self._climb(state, network, indices, loss)

    def _climb(
        self, state: AttackState, network: Classifier, indices: Tensor, loss: IndexedLoss
    ) -> None:
        """Run all steps on one batch."""
        x = state.images[indices]
        offset, past = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(self.num_steps):
            images, eps = state.images[indices], state.eps_at(indices)
            radius = eps / 2 if self.radius is None else self.radius

            def at_inner(logits: Tensor, of: Tensor = indices) -> Tensor:
                return loss(logits, of)

            for _ in range(self.num_inner_steps):
                inner = (x + offset).clamp(0, 1)
                gradient, _ = input_gradient(network, inner, at_inner)
                moved = inner - expand_eps(radius / 4, inner) * state.norm.step(gradient, inner)
                offset = state.norm.project(moved, x, radius) - x
            gradient, _ = input_gradient(network, (x + offset).clamp(0, 1), at_inner)
            past = add_momentum(past, gradient, self.momentum)
            share = 0.02 + 0.18 * (1 + math.cos(math.pi * step / self.num_steps)) / 2
            x = ascend(x, past, images, eps=eps, step_size=share * eps, norm=state.norm)
            if (step + 1) % CHECK_EVERY == 0 or step + 1 == self.num_steps:
                state.evaluate(indices, x)
                going = state.active[indices]
                indices, x, offset, past = (v[going] for v in (indices, x, offset, past))
                if not len(indices):
                    return
