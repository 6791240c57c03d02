"""Attacks one batch of images at one eps after another, and goes on after an interruption.

After each eps, and within it after each member of an ensemble, the state of the batch is kept: what
is finished, the adversarial images so far, and the state of the random numbers. The order of the
eps, and which images are attacked at each, is that of :mod:`nullclass.scoring.eps_order`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import FGSM, Attack
from nullclass.attacks.base import access_of
from nullclass.attacks.ensemble import EnsembleProgress, MemberStats, run_attack
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, is_allowed, step_along
from nullclass.models.classifier import Classifier
from nullclass.results.schema import LEFT_OUT, NO_MEMBER
from nullclass.scoring.parts import Parts
from nullclass.scoring.score import is_success, score_batch


@dataclass(frozen=True)
class AttackedBatch:
    """A batch at one eps."""

    answers: pd.DataFrame
    """Rows of :func:`nullclass.scoring.score.score_batch`."""
    members: list[str]
    """``member`` of the rows (:data:`nullclass.results.schema.ROW_COLUMNS`)."""
    attacked_eps: Tensor
    """``(N,)`` float64: the eps at which each image was attacked, NaN if it was not attacked."""
    stats: tuple[MemberStats, ...]
    adv_images: Tensor
    """The first adversarial images on the CPU, ``num_returned`` of them."""


class BatchAttack:
    """An attack on one batch: its state, which is kept, and one step, an eps.

    Args:
        model: The model to score.
        source: The model to attack.
        name: The attack's name.
        attack: The attack.
        images: ``(N, C, H, W)`` in [0,1].
        labels: ``(N,)``.
        budgets: Eps in pixel units, increasing.
        norm: Norm of the budgets.
        clean: The answers on the clean images, if a success at one eps counts at every larger one;
            None if all images are attacked at every eps.
        proved_eps: ``(N,)`` float64: at this eps and below an image is not attacked.
        num_returned: How many adversarial images to return.
        seed: Seed of the random numbers, which go on from eps to eps.
        batch_size: Images per forward and backward pass.
        parts: Keeps the state.
    """

    def __init__(
        self,
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
        proved_eps: Tensor,
        num_returned: int,
        seed: int,
        batch_size: int | None,
        parts: Parts,
    ) -> None:
        self.model, self.source, self.name, self.attack = model, source, name, attack
        self.images, self.labels, self.budgets, self.norm = images, labels, budgets, norm
        self.clean, self.proved_eps = clean, proved_eps
        self.num_returned, self.batch_size, self.parts = num_returned, batch_size, parts
        self.generator = torch.Generator().manual_seed(seed)
        self.linear = _CachedDirection(attack) if type(attack) is FGSM else None
        self.adv_images = images
        """``(N, C, H, W)`` of the last finished eps."""
        self.winning_member = torch.full_like(labels, -1)
        """``(N,)``: the member that succeeded when the image was last attacked, -1 for none."""
        self.attacked_eps = torch.full_like(self.proved_eps, math.nan)
        """``(N,)`` on the CPU: the eps at which the image was last attacked, NaN for none."""
        self.finished: list[AttackedBatch] = []
        """One per eps, in the order in which they were attacked."""
        self.progress: EnsembleProgress | None = None
        """Of an ensemble at the next eps."""
        self._saved_at = time.perf_counter()
        self._load()

    def score(self, adv_images: Tensor) -> pd.DataFrame:
        """Return the answers on images ``(N, C, H, W)``."""
        return score_batch(self.model, adv_images, self.labels, self.batch_size)

    def is_success(self, answers: pd.DataFrame | None = None) -> Tensor:
        """Return ``(N,)`` booleans on the device of the images: whether the attack succeeded.

        Without answers: at the last finished eps, or on the clean images.
        """
        if answers is None:
            answers = self.finished[-1].answers if self.finished else self.clean
        if answers is None:
            return torch.zeros_like(self.labels, dtype=torch.bool)
        return is_success(answers, self.attack.objective).to(self.images.device)

    def attack_at(self, eps: Eps, active: Tensor, start: Tensor) -> None:
        """Attack images at one eps, score all, and keep the state.

        Args:
            eps: The budget.
            active: ``(N,)`` booleans: the images to attack, unless they are proved.
            start: ``(N, C, H, W)`` within eps: what is scored of the images not attacked.

        Raises:
            UserError: If the attack leaves its budget or the [0,1] box.
        """
        budget = eps.cpu() if isinstance(eps, Tensor) else eps
        is_proved = self.proved_eps >= budget
        active = active & ~is_proved.to(active.device)
        result = run_attack(
            self.linear or self.attack,  # type: ignore[arg-type]
            self.name,
            self.source,
            self.images[active],
            self.labels[active],
            progress=self.progress,
            on_member=self._save,
            eps=eps[active] if isinstance(eps, Tensor) else eps,
            norm=self.norm,
            generator=self.generator,
            batch_size=self.batch_size,
        )
        self.adv_images = start.clone()
        self.adv_images[active], self.winning_member[active] = (
            result.adv_images,
            result.winning_member,
        )
        self.attacked_eps = torch.where(active.cpu(), budget, self.attacked_eps)
        _check_budget(self.name, self.adv_images, self.images, eps, self.norm)
        answers = self.score(self.adv_images)
        succeeded, stats = self.is_success(answers), result.member_stats
        if len(stats) == 1:
            stats = (replace(stats[0], num_successes=int((succeeded & active).sum())),)
        returned = self.adv_images[: self.num_returned].clone().cpu()  # without the others' memory
        members = self._members(succeeded, is_proved, stats)
        self.finished.append(AttackedBatch(answers, members, self.attacked_eps, stats, returned))
        self._save()

    def _members(
        self, succeeded: Tensor, is_proved: Tensor, stats: Sequence[MemberStats]
    ) -> list[str]:
        """Return ``member`` of the rows."""
        names = [*(each.member for each in stats), self.name]  # -1: by no member alone
        found = [names[number] for number in self.winning_member.tolist()]
        is_attacked = ~self.attacked_eps.isnan()
        succeeded = succeeded.cpu()
        columns = (succeeded & is_attacked, is_proved & ~is_attacked & ~succeeded)
        return [
            name if is_found else LEFT_OUT if is_safe else NO_MEMBER
            for name, is_found, is_safe in zip(found, *(c.tolist() for c in columns), strict=True)
        ]

    def _save(self, progress: EnsembleProgress | None = None) -> None:
        self.progress = progress
        is_over = len(self.finished) == len(self.budgets)
        values = {
            "adv_images": None if self.clean is None or is_over else self.adv_images,
            "winning_member": self.winning_member,
            "attacked_eps": self.attacked_eps,
            "finished": [vars(each) | {"stats": _as_dicts(each.stats)} for each in self.finished],
            "progress": progress
            and vars(progress) | {"member_stats": _as_dicts(progress.member_stats)},
            "generator": self.generator.get_state(),
            "direction": self.linear and self.linear.direction,
        }
        if self.parts.save(values, time.perf_counter() - self._saved_at):
            self._saved_at = time.perf_counter()

    def _load(self) -> None:
        kept = self.parts.load()
        if kept is None:
            return
        device = self.images.device
        if kept["adv_images"] is not None:
            self.adv_images = kept["adv_images"].to(device)
        self.winning_member = kept["winning_member"].to(device)
        self.attacked_eps = kept["attacked_eps"]
        self.finished = [
            AttackedBatch(**each | {"stats": _from_dicts(each["stats"])})
            for each in kept["finished"]
        ]
        progress = kept["progress"]
        if progress is not None:
            stats = _from_dicts(progress.pop("member_stats"))
            on_device = {name: tensor.to(device) for name, tensor in progress.items()}
            self.progress = EnsembleProgress(member_stats=stats, **on_device)
        self.generator.set_state(kept["generator"])
        if self.linear is not None:
            self.linear.direction = kept["direction"].to(device)


def _as_dicts(stats: Sequence[MemberStats]) -> list[dict[str, Any]]:
    return [asdict(each) for each in stats]


def _from_dicts(stats: Sequence[dict[str, Any]]) -> tuple[MemberStats, ...]:
    return tuple(MemberStats(**each) for each in stats)


class _CachedDirection:
    """A linear attack on one batch: its gradient is computed once, at the first eps."""

    is_iterative = False

    def __init__(self, attack: FGSM) -> None:
        self.attack, self.access = attack, access_of(attack)
        self.direction: Tensor | None = None

    def __call__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        norm: str,
        batch_size: int | None,
        **_: object,
    ) -> Tensor:
        if self.direction is None:
            self.direction = self.attack.direction(
                model, images, labels, norm=norm, batch_size=batch_size
            )
        return step_along(self.direction, images, eps, norm)


def _check_budget(name: str, adv_images: Tensor, images: Tensor, eps: Eps, norm: str) -> None:
    if not bool(is_allowed(adv_images, images, eps, norm).all()):
        text = "of each image" if isinstance(eps, Tensor) else f"{eps:g}"
        raise UserError(
            f"attack {name!r} left its budget of {norm} eps {text} or the [0,1] box: its results "
            "would mean nothing"
        )
