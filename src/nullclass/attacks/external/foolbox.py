"""Attacks of foolbox (Rauber et al. 2020): fixed-budget and minimum-norm attacks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from nullclass.attacks.dataset import ORDERS, subsample
from nullclass.attacks.external.base import LibraryInput, NamedAttack
from nullclass.attacks.external.library import Library
from nullclass.attacks.state import AttackState, logits_of
from nullclass.core.errors import UserError
from nullclass.core.norms import find_ball
from nullclass.core.outcomes import predictions
from nullclass.data.arrays import LabelledImages

_BOUNDARY_ATTACKS = ("Boundary", "HopSkipJump", "BrendelBethge", "Pointwise")
"""Attacks that start from noise by default, which fails if the model calls noise null."""
NUM_CANDIDATES = 1000
"""Reference images considered as starting points, at most; more are subsampled evenly."""


@dataclass(frozen=True)
class FoolboxAttack(NamedAttack):
    """Any attack of ``foolbox.attacks``: ``FoolboxAttack({"linf": "LinfPGD"}, {"steps": 40})``.

    Attacks that walk along the decision boundary start at the nearest image that the model
    predicts as another class, of those under attack and the reference images; without one the
    image does not change.
    """

    reference_images: LabelledImages | None = field(default=None, repr=False, compare=False)
    """More starting points for boundary attacks, chosen by the model's prediction."""
    library: ClassVar[Library] = Library(
        "foolbox", "foolbox.attacks", "pip install 'nullclass[foolbox]'"
    )

    def with_reference_images(self, images: LabelledImages) -> FoolboxAttack:
        """See :class:`nullclass.attacks.base.TakesReferenceImages`; for boundary attacks only."""
        takes_starts = any(_is_boundary_attack(name) for name in self.names.values())
        if takes_starts and self.reference_images is None:
            return replace(self, reference_images=images)
        return self

    def _reference(self, state: AttackState, logits: Tensor) -> tuple[Tensor, Tensor]:
        images, predicted = super()._reference(state, logits)
        if self.reference_images is None:
            return images, predicted
        more = subsample(self.reference_images, state.images, NUM_CANDIDATES)
        logits = logits_of(state.model, more, state.batch_size)
        more_predicted = predictions(logits, state.model.num_classes)
        return torch.cat([images, more]), torch.cat([predicted, more_predicted])

    def run_library(self, given: LibraryInput) -> Tensor:
        """See :class:`nullclass.attacks.external.ExternalAttack`."""
        distance = getattr(self.library.load("foolbox.distances"), given.norm)
        attack = self.create(given, distance=distance, constraint=given.norm)
        order = getattr(attack.distance, "p", None)
        if order != ORDERS[given.norm]:
            raise UserError(f"foolbox's {self.names[given.norm]} is for L{order}, not {given.norm}")
        adv_images, arguments = given.images.clone(), {}
        chosen = torch.ones_like(given.labels, dtype=torch.bool)
        is_from_noise = getattr(attack, "init_attack", None) is None
        if _is_boundary_attack(type(attack).__name__) and is_from_noise:
            starts, chosen = _find_starts(given)
            arguments = {"starting_points": starts[chosen]}
        if bool(chosen.any()):
            adv_images[chosen] = self._attack(attack, given, chosen, arguments)
        return adv_images

    def _attack(
        self, attack: Any, given: LibraryInput, chosen: Tensor, arguments: dict[str, Tensor]
    ) -> Tensor:
        foolbox = self.library.load()
        network = foolbox.PyTorchModel(given.network, bounds=(0, 1), device=given.images.device)
        kind = "TargetedMisclassification" if given.is_targeted else "Misclassification"
        criterion = getattr(foolbox.criteria, kind)(given.labels[chosen])
        clipped: Tensor
        try:
            _, clipped, _ = attack(
                network, given.images[chosen], criterion, epsilons=given.eps, **arguments
            )
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"foolbox's {type(attack).__name__} refuses: {error}") from error
        return clipped


def _is_boundary_attack(name: str) -> bool:
    return any(kind in name for kind in _BOUNDARY_ATTACKS)


def _find_starts(given: LibraryInput) -> tuple[Tensor, Tensor]:
    """Return the nearest image ``(N, C, H, W)`` of the target or another class, and a mask.

    The mask ``(N,)`` says where there is one.
    """
    reference, predicted = given.reference
    is_start = predicted == given.labels[:, None]
    if not given.is_targeted:
        is_start = ~is_start & (predicted >= 0)
    distances = [find_ball(given.norm).size(reference - image) for image in given.images]
    nearest = torch.stack(distances).masked_fill(~is_start, torch.inf).argmin(dim=1)
    starts = reference[nearest]
    # Foolbox rejects a batch for one bad start, and a view may break a tie differently.
    with torch.no_grad():
        is_label = given.network(starts).argmax(dim=1) == given.labels
    return starts, is_start.any(dim=1) & (is_label == given.is_targeted)


def foolbox_fmn() -> FoolboxAttack:
    """Return FMN (Pintor et al. 2021), minimum-norm, towards every wrong real class in turn.

    In L2 it is DDN (Rony et al. 2019), which FMN generalises: the L2 FMN of foolbox 3.3.4 never
    projects, since it scales by ``norms / norms``.
    """
    names = {"linf": "LInfFMNAttack", "l2": "DDNAttack", "l1": "L1FMNAttack"}
    return FoolboxAttack(names, view="targeted")


def foolbox_hop_skip_jump() -> FoolboxAttack:
    """Return HopSkipJump (Chen et al. 2020), which uses predicted labels only.

    Eight steps are about 2,000 queries per MNIST image; foolbox's default 64 are 35,000.
    """
    names = dict.fromkeys(("linf", "l2"), "HopSkipJumpAttack")
    return FoolboxAttack(names, {"steps": 8}, access="labels")
