"""Runs an attack on images at every budget, and turns the adversarial images into rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.attacks.base import LinearAttack, access_of
from nullclass.attacks.ensemble import MemberStats, run_attack
from nullclass.core.devices import exact_float32
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps, is_allowed, step_along
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.results.schema import (
    COST_COLUMNS,
    COST_COUNTS,
    NO_MEMBER,
    SELF,
    Examples,
)
from nullclass.scoring.score import (
    OnImages,
    batch_seed,
    batches_of,
    ignore,
    is_success,
    label_rows,
    score_batch,
)


@dataclass(frozen=True)
class AttackResult:
    """Rows, costs and images of one attack."""

    rows: pd.DataFrame
    """:data:`nullclass.results.schema.ROW_COLUMNS`."""
    costs: pd.DataFrame
    """:data:`nullclass.results.schema.COST_COLUMNS`."""
    examples: list[Examples]
    adv_images: dict[float, Tensor] = field(default_factory=dict, repr=False)
    """By eps, all adversarial images ``(N, C, H, W)`` on the CPU, if they were kept."""


@exact_float32()
def score_attack(
    model: Classifier,
    data: LabelledImages,
    chosen: Tensor,
    name: str,
    attack: Attack,
    budgets: Sequence[float] | Tensor,
    *,
    norm: str,
    source: Classifier | None = None,
    source_name: str = SELF,
    num_examples: int = 0,
    keep_images: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    on_images: OnImages = ignore,
) -> AttackResult:
    """Attack images at every budget and score the adversarial images.

    An iterative attack on the model itself is not repeated on an image that it fooled at a
    smaller eps: the success counts at every larger eps. Attacks on another source, and
    single-step attacks, run on every image at every eps.

    Args:
        model: The model to score.
        data: Images and labels.
        chosen: ``(N,)`` indices of the images to attack.
        name: The attack's name in the rows.
        attack: The attack.
        budgets: Eps in pixel units, increasing, each for all images; or ``(N,)``, one per image.
        norm: Name in :data:`nullclass.core.norms.NORMS`.
        source: The model to attack, if it is not the model to score.
        source_name: The attacked model's name in the rows.
        num_examples: How many images to keep per budget, for figures.
        keep_images: Whether to return all adversarial images.
        batch_size: Images per forward and backward pass. Default: the attack's own.
        seed: Seed of the attack's random starts.
        on_images: Progress.

    Raises:
        UserError: If a budget is out of range, or the attack leaves its budget or the [0,1] box.
    """
    for budget in [budgets] if isinstance(budgets, Tensor) else budgets:
        check_eps(budget, norm, torch.Size((len(chosen), *data.images.shape[1:])))
    keys = {"attack": name, "objective": attack.objective, "source": source_name, "norm": norm}
    # A success chosen by its effect on this model must not be reused for a transfer.
    skips_successes = attack.is_iterative and source is None
    tables: list[pd.DataFrame] = []
    costs: list[dict[str, object]] = []
    examples: list[Examples] = []
    kept: dict[float, list[Tensor]] = {}
    start = 0
    for indices, images, labels in batches_of(model, data, chosen):
        num_shown = num_examples if start == 0 else 0
        clean = None
        if skips_successes or num_shown:
            clean = score_batch(model, images, labels, batch_size)
        batch_budgets: Sequence[Eps] = (
            [budgets[start : start + len(indices)].to(images.device)]
            if isinstance(budgets, Tensor)
            else budgets
        )
        attacked = _attack_batch(
            model,
            model if source is None else source,
            name,
            attack,
            images,
            labels,
            batch_budgets,
            norm=norm,
            clean=clean if skips_successes else None,
            generator=torch.Generator().manual_seed(batch_seed(seed, start)),
            batch_size=batch_size,
        )
        for eps, adv_images, answers, members, stats in attacked:
            tables.append(label_rows(answers, indices, **keys, eps=eps, members=members))
            eps_of_all = math.nan if isinstance(eps, Tensor) else eps
            costs += [keys | {"eps_pixels": eps_of_all} | asdict(each) for each in stats]
            if clean is not None and num_shown:
                shown = clean[:num_shown]
                examples.append(make_examples(name, norm, eps, images, adv_images, shown, answers))
            if keep_images:
                kept.setdefault(eps_of_all, []).append(adv_images.detach().cpu())
            on_images(len(indices))
        start += len(indices)
    return AttackResult(
        pd.concat(tables, ignore_index=True),
        sum_costs(costs),
        examples,
        {eps: torch.cat(parts) for eps, parts in kept.items()},
    )


class _AttackedBatch(NamedTuple):
    """A batch attacked at one eps."""

    eps: Eps
    adv_images: Tensor
    answers: pd.DataFrame
    """Rows of :func:`score_batch`."""
    members: list[str]
    """Name of the ensemble member that succeeded, per image."""
    stats: tuple[MemberStats, ...]


def _attack_batch(
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
    generator: torch.Generator,
    batch_size: int | None,
) -> Iterator[_AttackedBatch]:
    """Attack one batch at each eps, and score the adversarial images.

    ``clean`` holds the answers on the clean images, if images are not attacked again once the
    attack has succeeded: they keep their adversarial image. Otherwise all images are attacked at
    every eps.
    """
    run = _CachedDirection(attack) if isinstance(attack, LinearAttack) else attack
    adv_images, members = images, torch.full_like(labels, -1)
    active = torch.ones_like(labels, dtype=torch.bool)
    if clean is not None:
        active = ~is_success(clean, attack.objective).to(images.device)
    for eps in budgets:
        result = run_attack(
            run,  # type: ignore[arg-type]
            name,
            source,
            images[active],
            labels[active],
            eps=eps[active] if isinstance(eps, Tensor) else eps,
            norm=norm,
            generator=generator,
            batch_size=batch_size,
        )
        adv_images, members = adv_images.clone(), members.clone()
        adv_images[active], members[active] = result.adv_images, result.winning_member
        _check_budget(name, adv_images, images, eps, norm)
        answers = score_batch(model, adv_images, labels, batch_size)
        succeeded = is_success(answers, attack.objective).to(images.device)
        stats = result.member_stats
        if len(stats) == 1:
            stats = (replace(stats[0], num_successes=int((succeeded & active).sum())),)
        names = winning_members(members.where(succeeded, -1), stats)
        yield _AttackedBatch(eps, adv_images, answers, names, stats)
        if clean is not None:
            active = ~succeeded


def winning_members(members: Tensor, stats: Sequence[MemberStats]) -> list[str]:
    """Return, per image, the name of the ensemble member that succeeded."""
    return [NO_MEMBER if member < 0 else stats[member].member for member in members.tolist()]


def sum_costs(costs: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Return the costs summed over batches, members in their order."""
    table = pd.DataFrame(costs, columns=list(COST_COLUMNS)).astype(COST_COLUMNS)
    keys = [column for column in COST_COLUMNS if column not in COST_COUNTS]
    return table.groupby(keys, sort=False, dropna=False, as_index=False)[COST_COUNTS].sum()


def make_examples(
    attack: str,
    norm: str,
    eps: Eps,
    images: Tensor,
    adv_images: Tensor,
    clean: pd.DataFrame,
    attacked: pd.DataFrame,
) -> Examples:
    """Return the first images under one attack; as many as there are rows of clean answers."""
    num = len(clean)
    return Examples(
        attack=attack,
        norm=norm,
        eps_pixels=math.nan if isinstance(eps, Tensor) else eps,
        budgets=eps[:num].tolist() if isinstance(eps, Tensor) else [eps] * num,
        labels=clean["label"].tolist(),
        clean_predictions=clean["prediction"].tolist(),
        clean_confidences=clean["confidence"].tolist(),
        predictions=attacked["prediction"][:num].tolist(),
        confidences=attacked["confidence"][:num].tolist(),
        clean=images[:num].cpu().numpy(),
        adv_images=adv_images[:num].cpu().numpy(),
    )


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
