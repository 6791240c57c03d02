"""Attacks that run only where they can help: without a gradient, around a network, on a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nullclass.attacks.base import Attack, WrappedAttack, run_on
from nullclass.attacks.state import AttackState
from nullclass.attacks.steps import NoGradientError, has_direction
from nullclass.models.classifier import network_inside


@dataclass(frozen=True)
class OnZeroGradient(WrappedAttack):
    """Runs an attack on images without a gradient of the logsumexp margin, and on no others.

    Gradients that are exactly zero are the simplest form of masking (Athalye et al. 2018): attacks
    that follow gradients cannot move. Where there is a gradient, such attacks are far cheaper.
    """

    attack: Attack

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        has_gradient, loss = torch.zeros_like(state.active), state.loss("logsumexp-margin")
        try:
            for indices in state.batches():
                _, gradient, _ = state.forward_backward(indices, state.images[indices], loss)
                has_gradient[indices] = has_direction(gradient)
        except NoGradientError:
            state.evaluate_clean()
        chosen = (state.active & ~has_gradient).nonzero().squeeze(1)
        if len(chosen):
            run_on(self.attack, state, chosen, generator)


@dataclass(frozen=True)
class OnRule(WrappedAttack):
    """Runs an attack on models that are a rule around a network, and on no others.

    A rule leaves the real logits as they are, up to a constant per image, and adds a null logit.
    Proofs have logits of their own, margins. A score beside the logits is a rule, too.
    """

    attack: Attack

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        network, few = network_inside(state.model), state.images[:NUM_COMPARED]
        if network is state.model and not network.has_score:
            return
        both = (state.model, network)
        real = [model(few)[:, : network.num_classes].double() for model in both]
        of_rule, of_network = (logits - logits.amax(dim=1, keepdim=True) for logits in real)
        if torch.allclose(of_rule, of_network, rtol=1e-4, atol=1e-4):
            run_on(self.attack, state, state.active.nonzero().squeeze(1), generator)


NUM_COMPARED = 2
"""Images of which :class:`OnRule` compares the logits."""


@dataclass(frozen=True)
class OnSample(WrappedAttack):
    """Runs an attack on the images nearest to a success, and on more of them if it succeeds.

    Each sample is twice as large as the one before, as long as that one had a success: an attack
    that adds nothing costs little, and one that adds much attacks all images. Nearest is the
    largest margin that earlier attacks reached (after A3, Liu et al. 2022).
    """

    attack: Attack
    share: float = 0.25
    """The first sample as a share of the images that the ensemble began with. So its cost is known,
    and where few images are left all of them are attacked."""
    smallest: int = 16
    """The first sample has at least so many images: fewer say little about the others."""

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        state.evaluate_clean()
        size = max(math.ceil(self.share * state.num_begun), self.smallest)
        for chosen in growing_parts(state.nearest_to_success(), size):
            run_on(self.attack, state, chosen, generator)
            if bool(state.active[chosen].all()):
                return


def growing_parts(indices: Tensor, size: int) -> list[Tensor]:
    """Return indices in parts of ``size``, twice ``size``, and so on."""
    parts = []
    while len(indices):
        parts.append(indices[:size])
        indices, size = indices[size:], 2 * size
    return parts
