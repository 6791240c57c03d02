"""Attacks of foolbox (Rauber et al. 2020), those within a budget and those of minimum norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from nullclass.attacks.candidates import subsample
from nullclass.attacks.external.base import Adapter, Task
from nullclass.attacks.external.loading import Library, accepted, name_for
from nullclass.attacks.state import AttackState, logits_of
from nullclass.core.errors import UserError
from nullclass.core.norms import find_ball
from nullclass.core.outcomes import predictions
from nullclass.data.arrays import LabelledImages

_ORDERS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
_WALKERS = ("Boundary", "HopSkipJump", "BrendelBethge", "Pointwise")
"""Attacks that start from noise unless told otherwise: a model that calls noise null stops them."""
NUM_STARTS = 1000
"""Pool images looked at for starts, at most; a larger pool is thinned out evenly."""


@dataclass(frozen=True)
class FoolboxAttack(Adapter):
    """Any attack of ``foolbox.attacks``: ``FoolboxAttack({"linf": "LinfPGD"}, {"steps": 40})``.

    What a minimum-norm attack finds beyond the budget is pulled into the ball. Attacks that walk
    along the boundary start at the nearest image that the model takes for another class, of those
    under attack and the pool; where there is none, they do nothing.
    """

    names: Mapping[str, str]
    """The attack for each norm it has: its name, or a dotted path to a class elsewhere."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its constructor is told."""
    pool: LabelledImages | None = field(default=None, repr=False, compare=False)
    """Where else starts may come from, for attacks that walk; what counts is the model's answer."""
    library: ClassVar[Library] = Library(
        "foolbox", "foolbox.attacks", "FoolboxAttack", "pip install 'nullclass[foolbox]'"
    )

    def with_reference_images(self, pool: LabelledImages) -> FoolboxAttack:
        """See :class:`nullclass.attacks.base.TakesReferenceImages`; itself, if it does not walk."""
        walks = any(kind in name for name in self.names.values() for kind in _WALKERS)
        return replace(self, pool=pool) if walks and self.pool is None else self

    def _tasks(self, standing: AttackState, norm: str) -> Iterator[tuple[Tensor, Task]]:
        if self.pool is None or not len(standing.images):
            yield from super()._tasks(standing, norm)
            return
        pool = subsample(self.pool, standing.images, NUM_STARTS)
        answers = predictions(logits_of(standing.model, pool), standing.model.num_classes)
        for indices, task in super()._tasks(standing, norm):
            known = zip(task.known, (pool, answers), strict=True)
            images, told = (torch.cat(parts) for parts in known)
            yield indices, replace(task, known=(images, told))

    def run(self, task: Task) -> Tensor:
        """See :meth:`nullclass.attacks.external.base.Adapter.run`."""
        name = name_for(self.names, task.norm)
        distances = self.library.load("foolbox.distances")
        of_norm = {"distance": getattr(distances, task.norm), "constraint": task.norm}
        given = accepted(self.library.find(name), of_norm)
        attack = self.library.make(name, given=given, settings=self.settings)
        order = getattr(attack.distance, "p", None)
        if order != _ORDERS[task.norm]:
            raise UserError(f"foolbox's {name} measures in L{order}, not in {task.norm}")
        adv_images, told = task.images.clone(), {}
        is_ready = torch.ones_like(task.labels, dtype=torch.bool)
        if _starts_from_noise(attack):
            starts, is_ready = _starts(task)
            told = {"starting_points": starts[is_ready]}
        if bool(is_ready.any()):
            adv_images[is_ready] = self._found(attack, task, is_ready, told)
        return adv_images

    def _found(self, attack: Any, task: Task, chosen: Tensor, told: dict[str, Tensor]) -> Tensor:
        foolbox = self.library.load()
        network = foolbox.PyTorchModel(task.network, bounds=(0, 1), device=task.images.device)
        aim = "TargetedMisclassification" if task.is_targeted else "Misclassification"
        criterion = getattr(foolbox.criteria, aim)(task.labels[chosen])
        try:
            _, clipped, _ = attack(
                network, task.images[chosen], criterion, epsilons=task.eps, **told
            )
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"foolbox's {type(attack).__name__} refuses: {error}") from error
        found: Tensor = clipped
        return found


def _starts_from_noise(attack: Any) -> bool:
    is_walker = any(kind in type(attack).__name__ for kind in _WALKERS)
    return is_walker and getattr(attack, "init_attack", None) is None


def _starts(task: Task) -> tuple[Tensor, Tensor]:
    """For each image the nearest that has its target, or another class, and whether there is one.

    Two tensors, ``(N, C, H, W)`` and ``(N,)``.
    """
    known, answers = task.known
    is_start = answers == task.labels[:, None]
    if not task.is_targeted:
        is_start = ~is_start & (answers >= 0)
    far = [find_ball(task.norm).size(known - image) for image in task.images]
    nearest = torch.stack(far).masked_fill(~is_start, torch.inf).argmin(dim=1)
    starts = known[nearest]
    # Foolbox gives all images up for one bad start: a tie, say, may be broken otherwise in a view.
    with torch.no_grad():
        is_target = task.network(starts).argmax(dim=1) == task.labels
    return starts, is_start.any(dim=1) & (is_target == task.is_targeted)


def fmn() -> FoolboxAttack:
    """FMN (Pintor et al. 2021), minimum-norm, aimed at every wrong real class in turn.

    In L2 it is DDN (Rony et al. 2019), which FMN generalises: the L2 FMN of foolbox 3.3.4 never
    projects, as it scales by ``norms / norms``.
    """
    names = {"linf": "LInfFMNAttack", "l2": "DDNAttack", "l1": "L1FMNAttack"}
    return FoolboxAttack(names, view="targeted")


def hop_skip_jump() -> FoolboxAttack:
    """HopSkipJump (Chen et al. 2020), on nothing but the labels that the model answers.

    Eight steps, about 2,000 queries an image of MNIST's size; foolbox's own 64 take 35,000.
    """
    names = dict.fromkeys(("linf", "l2"), "HopSkipJumpAttack")
    return FoolboxAttack(names, {"steps": 8}, access="labels")
