"""Attacks of torchattacks (Kim 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nullclass.attacks.external.base import LibraryInput, NamedAttack
from nullclass.attacks.external.library import Library
from nullclass.core.errors import UserError


@dataclass(frozen=True)
class TorchattacksAttack(NamedAttack):
    """Any attack of torchattacks on a single model."""

    # No extra: its metadata pins an old requests and demands torchvision, which it never imports.
    library: ClassVar[Library] = Library(
        "torchattacks",
        "torchattacks",
        "pip install --no-deps torchattacks && pip install scipy",
    )

    def run_library(self, given: LibraryInput) -> Tensor:
        """See :class:`nullclass.attacks.external.ExternalAttack`."""
        attack = self.create(
            given,
            _Contiguous(given.network),
            eps=given.eps,
            norm=given.norm.capitalize(),
            n_classes=given.num_logits,
            seed=int(torch.randint(2**31, ())),
        )
        attack.set_device(given.images.device)
        if given.is_targeted:
            try:
                attack.set_mode_targeted_by_label(quiet=True)
            except ValueError as error:
                raise UserError(
                    f"torchattacks' {self.names[given.norm]} takes no targets: its view is grouped "
                    "or plain"
                ) from error
        adv_images: Tensor = attack(given.images, given.labels)
        return adv_images


class _Contiguous(nn.Module):
    """A network whose gradients are contiguous, as torchattacks reshapes them by ``view``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.flatten(1).unflatten(1, images.shape[1:]))
        return logits


def torchattacks_pgd() -> TorchattacksAttack:
    """Return PGD-40 towards every wrong real class in turn, from a random start; linf and l2."""
    return TorchattacksAttack(
        {"linf": "PGD", "l2": "PGDL2"}, {"steps": 40}, {"alpha": 2.5 / 40}, view="targeted"
    )
