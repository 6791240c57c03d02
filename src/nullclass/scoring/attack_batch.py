"""Attacks one batch of images, eps by eps, and goes on where an earlier call was interrupted.

After each eps, and within it after each member of an ensemble, the state of the batch is kept: what
is finished, the adversarial images so far, and the state of the random numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.attacks.base import LinearAttack, access_of
from nullclass.attacks.ensemble import EnsembleProgress, MemberStats, run_attack
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, is_allowed, step_along
from nullclass.models.classifier import Classifier
from nullclass.results.schema import NO_MEMBER
from nullclass.scoring.parts import Parts
from nullclass.scoring.score import is_success, score_batch


@dataclass(frozen=True)
class AttackedBatch:
    """A batch attacked at one eps."""

    answers: pd.DataFrame
    """Rows of :func:`nullclass.scoring.score.score_batch`."""
    members: list[str]
    """Name of the ensemble member that succeeded, per image."""
    stats: tuple[MemberStats, ...]
    adv_images: Tensor
    """The first adversarial images on the CPU, ``num_returned`` of them."""


def attack_batch(
    model: Classifier,
    source: Classifier,
    name: str,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    budgets: Sequence[Eps],
    *,
    norm: str,
    clean: pd.DataFrame | None,
    num_returned: int,
    seed: int,
    batch_size: int | None,
    parts: Parts,
) -> Iterator[AttackedBatch]:
    """Attack one batch at each eps, and score the adversarial images.

    Args:
        model: The model to score.
        source: The model to attack.
        name: The attack's name.
        attack: The attack.
        images: ``(N, C, H, W)`` in [0,1].
        labels: ``(N,)``.
        budgets: Eps in pixel units, increasing.
        norm: Norm of the budgets.
        clean: The answers on the clean images, if images are not attacked again once the attack
            has succeeded: they keep their adversarial image. Otherwise all images are attacked at
            every eps.
        num_returned: How many adversarial images to return.
        seed: Seed of the random numbers, which go on from eps to eps.
        batch_size: Images per forward and backward pass.
        parts: Keeps the state of this batch.

    Raises:
        UserError: If the attack leaves its budget or the [0,1] box.
    """
    run = _CachedDirection(attack) if isinstance(attack, LinearAttack) else attack
    generator = torch.Generator().manual_seed(seed)
    state = _State(images, torch.full_like(labels, -1))
    kept, saved_at = parts.load(), time.perf_counter()
    if kept is not None:
        state = _State.from_values(kept["state"], images)
        generator.set_state(kept["generator"])
        if isinstance(run, _CachedDirection):
            run.direction = kept["direction"].to(images.device)
    yield from state.finished

    def save(progress: EnsembleProgress | None = None) -> None:
        nonlocal saved_at
        state.progress = progress
        is_over = len(state.finished) == len(budgets)
        values = {
            "state": state.to_values(has_images=clean is not None and not is_over),
            "generator": generator.get_state(),
            "direction": run.direction if isinstance(run, _CachedDirection) else None,
        }
        if parts.save(values, time.perf_counter() - saved_at):
            saved_at = time.perf_counter()

    for eps in budgets[len(state.finished) :]:
        active = torch.ones_like(labels, dtype=torch.bool)
        if clean is not None:
            before = state.finished[-1].answers if state.finished else clean
            active = ~is_success(before, attack.objective).to(images.device)
        result = run_attack(
            run,  # type: ignore[arg-type]
            name,
            source,
            images[active],
            labels[active],
            progress=state.progress,
            on_member=save,
            eps=eps[active] if isinstance(eps, Tensor) else eps,
            norm=norm,
            generator=generator,
            batch_size=batch_size,
        )
        adv_images, members = state.adv_images.clone(), state.members.clone()
        adv_images[active], members[active] = result.adv_images, result.winning_member
        _check_budget(name, adv_images, images, eps, norm)
        answers = score_batch(model, adv_images, labels, batch_size)
        succeeded = is_success(answers, attack.objective).to(images.device)
        stats = result.member_stats
        if len(stats) == 1:
            stats = (replace(stats[0], num_successes=int((succeeded & active).sum())),)
        names = winning_members(members.where(succeeded, -1), stats)
        returned = adv_images[:num_returned].clone().cpu()  # does not keep all of them in memory
        state.adv_images, state.members = adv_images, members
        state.finished.append(AttackedBatch(answers, names, stats, returned))
        save()
        yield state.finished[-1]


@dataclass
class _State:
    """What an attack on a batch goes on from."""

    adv_images: Tensor
    """``(N, C, H, W)`` of the last finished eps."""
    members: Tensor
    """``(N,)``: the member that succeeded, -1 for none."""
    finished: list[AttackedBatch] = field(default_factory=list)
    """One per eps."""
    progress: EnsembleProgress | None = None
    """Of an ensemble at the next eps."""

    def to_values(self, *, has_images: bool) -> dict[str, Any]:
        """Return the state as lists and dictionaries, with or without ``adv_images``."""
        progress = self.progress
        return {
            "adv_images": self.adv_images if has_images else None,
            "members": self.members,
            "finished": [vars(each) | {"stats": _as_dicts(each.stats)} for each in self.finished],
            "progress": progress
            and vars(progress) | {"member_stats": _as_dicts(progress.member_stats)},
        }

    @classmethod
    def from_values(cls, values: dict[str, Any], images: Tensor) -> _State:
        """Return the state from values; without images it has the clean ``images``."""
        finished, progress = values["finished"], values["progress"]
        if progress is not None:
            stats = _from_dicts(progress.pop("member_stats"))
            on_device = {name: tensor.to(images.device) for name, tensor in progress.items()}
            progress = EnsembleProgress(member_stats=stats, **on_device)
        adv_images = values["adv_images"]
        return cls(
            images if adv_images is None else adv_images.to(images.device),
            values["members"].to(images.device),
            [AttackedBatch(**each | {"stats": _from_dicts(each["stats"])}) for each in finished],
            progress,
        )


def _as_dicts(stats: Sequence[MemberStats]) -> list[dict[str, Any]]:
    return [asdict(each) for each in stats]


def _from_dicts(stats: Sequence[dict[str, Any]]) -> tuple[MemberStats, ...]:
    return tuple(MemberStats(**each) for each in stats)


def winning_members(members: Tensor, stats: Sequence[MemberStats]) -> list[str]:
    """Return, per image, the name of the ensemble member that succeeded."""
    return [NO_MEMBER if member < 0 else stats[member].member for member in members.tolist()]


class _CachedDirection:
    """A linear attack on one batch: its gradient is computed once, at the first eps."""

    is_iterative = False

    def __init__(self, attack: LinearAttack) -> None:
        self.attack, self.access = attack, access_of(attack)
        self.direction: Tensor | None = None

    def __call__(
        self, model: Classifier, images: Tensor, labels: Tensor, *, eps: Eps, norm: str, **_: object
    ) -> Tensor:
        if self.direction is None:
            self.direction = self.attack.direction(model, images, labels, norm=norm)
        return step_along(self.direction, images, eps, norm)


def _check_budget(name: str, adv_images: Tensor, images: Tensor, eps: Eps, norm: str) -> None:
    if not bool(is_allowed(adv_images, images, eps, norm).all()):
        text = "of each image" if isinstance(eps, Tensor) else f"{eps:g}"
        raise UserError(
            f"attack {name!r} left its budget of {norm} eps {text} or the [0,1] box: its results "
            "would mean nothing"
        )
