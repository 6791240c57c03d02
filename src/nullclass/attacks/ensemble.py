"""Several attacks one after another, each on the images still active: the per-image worst case."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor

from nullclass.attacks.base import (
    Attack,
    BaseAttack,
    CallOptions,
    WrappedAttack,
    access_of,
    check_attack,
    run_on,
    supported_norms,
    with_reference_images,
)
from nullclass.attacks.counters import Passes, count_passes
from nullclass.attacks.losses import ObjectiveName
from nullclass.attacks.state import AttackState
from nullclass.attacks.steps import NoGradientError
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.core.norms import BALLS
from nullclass.data.arrays import LabelledImages
from nullclass.models.classifier import Classifier, as_classifier
from nullclass.models.network import Body
from nullclass.results.schema import Access

MemberStatus = Literal["ran", "unsupported-norm", "no-gradient"]
"""Whether a member ran, or why it was skipped."""


@dataclass(frozen=True)
class MemberStats:
    """What one attack did on some images, and its cost."""

    member: str
    """Its name in an ensemble, or the attack's own."""
    access: str
    """What it uses of the model (:data:`nullclass.results.schema.Access`), or ``unknown``."""
    is_iterative: bool
    status: MemberStatus
    """``no-gradient``: the model's forward pass detaches the images, so the member was skipped."""
    num_images: int
    """Images it attacked."""
    num_successes: int
    num_forwards: int
    """Images that passed through the model forward."""
    num_backwards: int
    """Images that passed through the model backward."""
    seconds: float


@dataclass(frozen=True)
class EnsembleResult:
    """The adversarial images of an ensemble, and what each member did."""

    adv_images: Tensor
    """``(N, C, H, W)``: successes, and the images with the largest margin for the rest."""
    winning_member: Tensor
    """``(N,)`` int64: the member that succeeded, -1 if none did."""
    member_stats: tuple[MemberStats, ...]
    """One per member, in order."""


@dataclass(frozen=True)
class EnsembleProgress(EnsembleResult):
    """The state of an ensemble after some of its members, from which it goes on exactly.

    The random numbers go on from the state of the generator.
    """

    active: Tensor
    """``(N,)`` booleans: images still attacked."""
    best: Tensor
    """``(N,)``: the margin at ``adv_images``."""


OnMember = Callable[[EnsembleProgress], None]
"""Receives the state of an ensemble after each member."""


@dataclass(frozen=True)
class AttackEnsemble(BaseAttack):
    """A sequence of attacks with one objective, cheapest first.

    A member that does not support the norm is skipped, as is one that needs gradients where the
    model has none.
    """

    members: tuple[Attack, ...]
    """The attacks; they share one objective."""
    names: tuple[str, ...] = ()
    """The members' names in tables; by default their positions and classes."""
    version: str = ""
    """Version of a published sequence; results of two versions are not comparable."""
    largest_eps_first: bool = False
    """Whether an evaluation at several eps starts with the largest one and infers survival at the
    smaller ones (:mod:`nullclass.scoring.eps_order`). For ensembles whose failure at an eps means
    that they would fail at a smaller one."""

    def __post_init__(self) -> None:
        """Check the members and their names."""
        object.__setattr__(self, "members", tuple(self.members))
        for member in self.members:
            check_attack(member)
        if len({member.objective for member in self.members}) != 1:
            raise UserError("an ensemble needs at least one attack, all with the same objective")
        numbered = (f"{n} {type(m).__name__}" for n, m in enumerate(self.members, start=1))
        object.__setattr__(self, "names", tuple(self.names or numbered))
        if len(set(self.names)) != len(self.members):
            raise UserError(
                f"an ensemble of {len(self.members)} attacks needs as many different names, not "
                f"{', '.join(self.names)}"
            )

    @property
    def objective(self) -> ObjectiveName:  # type: ignore[override]
        """The members' objective."""
        return self.members[0].objective

    @property
    def is_iterative(self) -> bool:  # type: ignore[override]
        """Whether a member searches the ball."""
        return any(member.is_iterative for member in self.members)

    @property
    def access(self) -> Access:  # type: ignore[override]
        """The most that a member uses of the model."""
        used = {member.access for member in self.members}
        return next((access for access in get_args(Access) if access in used), "none")

    @property
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]
        """The norms that a member supports."""
        supported = {norm for member in self.members for norm in supported_norms(member)}
        return tuple(norm for norm in BALLS if norm in supported)

    def with_reference_images(self, images: LabelledImages) -> AttackEnsemble:
        """See :class:`nullclass.attacks.base.TakesReferenceImages`; passed on to the members."""
        return replace(self, members=tuple(with_reference_images(m, images) for m in self.members))

    def run(self, state: AttackState, generator: torch.Generator | None) -> None:
        """See :class:`nullclass.attacks.base.BaseAttack`."""
        self._run(state, generator)

    def run_members(
        self,
        model: Body,
        images: Tensor,
        labels: Tensor,
        num_classes: int | None = None,
        has_null: bool = True,
        progress: EnsembleProgress | None = None,
        on_member: OnMember | None = None,
        **options: Unpack[CallOptions],
    ) -> EnsembleResult:
        """Return adversarial images and the statistics of every member; takes what a call takes.

        Args:
            model: The model.
            images: As in a call.
            labels: As in a call.
            num_classes: As in a call.
            has_null: As in a call.
            progress: Where an earlier call with the same arguments was interrupted.
            on_member: Receives the progress after every member.
            options: As in a call.
        """
        model = as_classifier(model, num_classes, images, has_null=has_null)
        eps, norm = options["eps"], options.get("norm", "linf")
        batch_size = options.get("batch_size")
        state = self.begin(model, images, labels, eps=eps, norm=norm, batch_size=batch_size)
        with frozen(model):
            winning_member, stats = self._run(state, options.get("generator"), progress, on_member)
        return EnsembleResult(state.adv_images, winning_member, stats)

    def _run(
        self,
        state: AttackState,
        generator: torch.Generator | None,
        progress: EnsembleProgress | None = None,
        on_member: OnMember | None = None,
    ) -> tuple[Tensor, tuple[MemberStats, ...]]:
        winning_member = torch.full_like(state.labels, -1)
        member_stats: list[MemberStats] = []
        if progress is not None:
            state.adv_images, state.active = progress.adv_images.clone(), progress.active.clone()
            state.best, winning_member = progress.best.clone(), progress.winning_member.clone()
            member_stats += progress.member_stats
        members = list(enumerate(zip(self.members, self.names, strict=True)))
        for number, (member, name) in members[len(member_stats) :]:
            started, active = time.perf_counter(), state.active.nonzero().squeeze(1)
            status: MemberStatus = "ran"
            if state.norm_name not in supported_norms(member):
                status = "unsupported-norm"
            with count_passes(state.model) as passes:
                if len(active) and status == "ran":
                    try:
                        run_on(member, state, active, generator)
                    except NoGradientError:
                        status = "no-gradient"
            won = active[~state.active[active]]
            winning_member[won] = number
            num_images = len(active) if status == "ran" else 0
            stats = _stats(member, name, status, num_images, len(won), passes, started)
            member_stats.append(stats)
            if on_member is not None:
                adv_images, won_by = state.adv_images.clone(), winning_member.clone()
                left = (state.active.clone(), state.best.clone())
                on_member(EnsembleProgress(adv_images, won_by, tuple(member_stats), *left))
        return winning_member, tuple(member_stats)


def attacks_inside(attack: Attack) -> list[Attack]:
    """Return the attacks that an attack consists of, itself if it is neither ensemble nor wrapper.

    Those of all members of an ensemble, and the one that a wrapper runs.
    """
    if isinstance(attack, AttackEnsemble):
        return [each for member in attack.members for each in attacks_inside(member)]
    return attacks_inside(attack.attack) if isinstance(attack, WrappedAttack) else [attack]


def run_attack(
    attack: Attack,
    name: str,
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    progress: EnsembleProgress | None = None,
    on_member: OnMember | None = None,
    **options: Unpack[CallOptions],
) -> EnsembleResult:
    """Return any attack's images with its statistics, as if it were an ensemble of one.

    A single attack does not report which images it fooled: each image is attributed to it until
    scoring decides. ``progress`` and ``on_member`` are for ensembles.
    """
    if isinstance(attack, AttackEnsemble):
        return attack.run_members(
            model, images, labels, progress=progress, on_member=on_member, **options
        )
    started = time.perf_counter()
    with count_passes(model) as passes:
        adv_images = images.detach().clone()
        if len(images):
            adv_images = attack(model, images, labels, **options)
    stats = _stats(attack, name, "ran", len(images), len(images), passes, started)
    return EnsembleResult(adv_images, torch.zeros_like(labels), (stats,))


def _stats(
    attack: Attack,
    name: str,
    status: MemberStatus,
    num_images: int,
    num_successes: int,
    passes: Passes,
    started: float,
) -> MemberStats:
    return MemberStats(
        member=name,
        access=access_of(attack),
        is_iterative=attack.is_iterative,
        status=status,
        num_images=num_images,
        num_successes=num_successes,
        num_forwards=passes.forward,
        num_backwards=passes.backward,
        seconds=time.perf_counter() - started,
    )
