"""Several attacks one after another, each on what still stands: the per-image worst case."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from nullclass.attacks.base import Access, Attack, TakesReferenceImages, frozen, norms_of
from nullclass.attacks.counters import counted
from nullclass.attacks.losses import ObjectiveName, find_objective, is_success
from nullclass.attacks.multi_targeted_pgd import MultiTargetedPGD
from nullclass.attacks.pgd import PGD
from nullclass.attacks.state import Precision, logits_of
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps
from nullclass.data.arrays import LabelledImages
from nullclass.models.classifier import Classifier

UNKNOWN = "unknown"
"""What an attack needs that does not say."""


@dataclass(frozen=True)
class MemberStats:
    """What one attack did on some images, and what it cost."""

    member: str
    """Its name in a cascade, or the attack's own."""
    access: str
    """What it takes from the model (:data:`nullclass.attacks.base.Access`), or ``untold``."""
    is_iterative: bool
    """Whether it searches the ball."""
    num_images: int
    """Images it was given: those that stood."""
    num_successes: int
    """Images that fell to it."""
    num_forward: int
    """Images that went through the model forwards."""
    num_backward: int
    """Images that went through the model backwards."""
    seconds: float


@dataclass(frozen=True)
class EnsembleResult:
    """What came of a cascade."""

    adv_images: Tensor
    """``(N, C, H, W)``: successes, and where there is none the try with the largest margin."""
    members: Tensor
    """``(N,)`` int64: the member an image fell to, -1 if it stands."""
    member_stats: tuple[MemberStats, ...]
    """One for each member, in order."""


@dataclass(frozen=True)
class AttackEnsemble:
    """A fixed sequence of attacks with one objective, cheapest first.

    A member that does not know the norm is passed over.
    """

    members: tuple[Attack, ...]
    """The attacks; their objectives agree."""
    names: tuple[str, ...] = ()
    """The members' names, for tables; their kinds and positions unless given."""
    version: str = ""
    """Of a published sequence, so that numbers of two versions are not compared unawares."""
    is_iterative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse members that want different things, and names that are not theirs."""
        if len({member.objective for member in self.members}) != 1:
            raise UserError("a cascade needs at least one attack, all with the same objective")
        if not self.names:
            named = [f"{n} {type(m).__name__}" for n, m in enumerate(self.members, start=1)]
            object.__setattr__(self, "names", tuple(named))
        if len(set(self.names)) != len(self.members):
            raise UserError(f"a cascade of {len(self.members)} attacks needs as many names")

    @property
    def objective(self) -> ObjectiveName:
        """The members' objective."""
        return self.members[0].objective

    @property
    def access(self) -> Access:
        """The most that a member needs."""
        access: tuple[Access, ...] = ("white-box", "scores", "labels")
        wanted = {member.access for member in self.members}
        return next((need for need in access if need in wanted), "none")

    def with_reference_images(self, pool: LabelledImages) -> AttackEnsemble:
        """See :class:`nullclass.attacks.base.TakesReferenceImages`: handed on to the members."""
        members = (
            m.with_reference_images(pool) if isinstance(m, TakesReferenceImages) else m
            for m in self.members
        )
        return replace(self, members=tuple(members))

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """See :class:`nullclass.attacks.base.Attack`."""
        return self.trace(
            model, images, labels, eps=eps, norm=norm, generator=generator, batch_size=batch_size
        ).adv_images

    def trace(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str = "linf",
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> EnsembleResult:
        """As a call, and tells what each member did and cost."""
        eps = check_eps(eps, norm, images.shape)
        objective, num_classes = find_objective(self.objective), model.num_classes
        adv_images = images.detach().clone()
        best = torch.full((len(images),), -torch.inf, device=images.device)
        winning_member = torch.full((len(images),), -1, device=images.device)
        standing = torch.arange(len(images), device=images.device)
        member_stats = []
        for number, (member, name) in enumerate(zip(self.members, self.names, strict=True)):
            started, num_given = time.perf_counter(), len(standing)
            with counted(model) as passes:
                if num_given and norm in norms_of(member):
                    tried = member(
                        model,
                        images[standing],
                        labels[standing],
                        eps=eps[standing] if isinstance(eps, Tensor) else eps,
                        norm=norm,
                        generator=generator,
                        batch_size=batch_size,
                    )
                    with frozen(model):
                        logits = logits_of(model, tried)
                    here = labels[standing]
                    margins = objective.margin(logits, here, num_classes, "hard").to(best)
                    fell = is_success(logits, here, num_classes, objective)
                    is_kept = fell | (margins > best[standing])
                    adv_images[standing[is_kept]] = tried[is_kept]
                    best[standing[is_kept]] = margins[is_kept]
                    winning_member[standing[fell]] = number
                    standing = standing[~fell]
            member_stats.append(
                MemberStats(
                    name,
                    access_of(member),
                    member.is_iterative,
                    num_given,
                    num_given - len(standing),
                    passes.forward,
                    passes.backward,
                    time.perf_counter() - started,
                )
            )
        return EnsembleResult(adv_images, winning_member, tuple(member_stats))


def access_of(attack: object) -> str:
    """What an attack takes from the model, or ``untold`` if it does not say."""
    return getattr(attack, "access", UNKNOWN)


def run_attack(
    attack: Attack,
    name: str,
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: Eps,
    norm: str = "linf",
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> EnsembleResult:
    """Any attack's images, with what it cost; a single attack is its only member.

    Whom a single attack fooled it does not say, and nobody is asked: every image counts as its own
    until it is scored.
    """
    if isinstance(attack, AttackEnsemble):
        return attack.trace(
            model, images, labels, eps=eps, norm=norm, generator=generator, batch_size=batch_size
        )
    started = time.perf_counter()
    with counted(model) as passes:
        adv_images = images.detach().clone()
        if len(images):
            adv_images = attack(
                model,
                images,
                labels,
                eps=eps,
                norm=norm,
                generator=generator,
                batch_size=batch_size,
            )
    seconds = time.perf_counter() - started
    tally = MemberStats(
        name,
        access_of(attack),
        attack.is_iterative,
        len(images),
        len(images),
        passes.forward,
        passes.backward,
        seconds,
    )
    return EnsembleResult(adv_images, torch.zeros_like(labels), (tally,))


def null_aware_pgd(
    num_steps: int = 40, num_target_steps: int = 40, precision: Precision = "float32"
) -> AttackEnsemble:
    """The null-aware PGD of the studies: smooth margin, hard margin, then every real target.

    The hard margin is there for models whose logits differ little, where the smooth one leads
    astray.

    Args:
        num_steps: Steps of each untargeted member.
        num_target_steps: Steps towards each of the K - 1 wrong real classes.
        precision: Of the gradients, as for :class:`nullclass.attacks.pgd.PGD`.
    """
    return AttackEnsemble(
        (
            PGD(form="smooth", num_steps=num_steps, precision=precision),
            PGD(form="hard", num_steps=num_steps, precision=precision),
            MultiTargetedPGD(num_steps=num_target_steps, precision=precision),
        ),
        ("smooth", "hard", "targets"),
    )
