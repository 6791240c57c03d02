"""Runs one attack on one model and scores the result, outside the attack."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.attacks.base import LinearAttack, access_of
from nullclass.attacks.ensemble import EnsembleResult, run_attack
from nullclass.core.devices import BATCH_SIZE
from nullclass.core.errors import UserError
from nullclass.core.norms import Eps, check_eps, is_allowed, step_along
from nullclass.data import LabelledImages
from nullclass.metrics.rates import SELF
from nullclass.models.classifier import Classifier
from nullclass.results.schema import COST_COLUMNS, COST_COUNTS, NO_MEMBER, Examples
from nullclass.scoring.rows import (
    OnImages,
    batch_of,
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


def score_clean(
    model: Classifier,
    data: LabelledImages,
    *,
    norm: str = "linf",
    batch_size: int | None = None,
    on_images: OnImages = ignore,
) -> pd.DataFrame:
    """Rows of the unmodified images."""
    tables = []
    for indices in torch.arange(len(data)).split(BATCH_SIZE):
        answers = score_batch(model, *batch_of(model, data, indices), batch_size)
        tables.append(label_rows(answers, indices, norm=norm))
        on_images(len(indices))
    return pd.concat(tables, ignore_index=True)


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
    tables: list[pd.DataFrame] = []
    costs: list[dict[str, object]] = []
    examples: list[Examples] = []
    kept: dict[float, list[Tensor]] = {}
    for batch in torch.arange(len(chosen)).split(BATCH_SIZE):
        first, indices = int(batch[0]), chosen[batch]
        images, labels = batch_of(model, data, indices)
        shown = slice(0, num_examples if first == 0 else 0)
        clean = score_batch(model, images[shown], labels[shown], batch_size) if shown.stop else None
        for eps, result, answers in _attack_batch(
            model,
            source,
            images,
            labels,
            name,
            attack,
            [budgets[batch].to(images.device)] if isinstance(budgets, Tensor) else budgets,
            norm,
            torch.Generator().manual_seed(batch_seed(seed, first)),
            batch_size,
        ):
            tables.append(
                label_rows(answers, indices, **keys, eps=eps, members=winning_members(result))
            )
            eps_of_all = math.nan if isinstance(eps, Tensor) else eps
            costs += [keys | {"eps_pixels": eps_of_all} | asdict(m) for m in result.member_stats]
            if clean is not None:
                adv_images = result.adv_images
                examples.append(make_examples(name, norm, eps, images, adv_images, clean, answers))
            if keep_images:
                kept.setdefault(eps_of_all, []).append(result.adv_images.detach().cpu())
            on_images(len(indices))
    return AttackResult(
        pd.concat(tables, ignore_index=True),
        sum_costs(costs),
        examples,
        {eps: torch.cat(parts) for eps, parts in kept.items()},
    )


def batch_seed(seed: int, first: int) -> int:
    """The seed of the batch that starts at an index, independent of the other batches."""
    return (seed * 1_000_003 + first) % 2**63


def winning_members(result: EnsembleResult) -> list[str]:
    """Per image, the name of the ensemble member that succeeded."""
    names = [stats.member for stats in result.member_stats]
    return [NO_MEMBER if member < 0 else names[member] for member in result.winning_member.tolist()]


def sum_costs(costs: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Costs summed over batches, members in their order."""
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
    """The first images under one attack; as many as there are rows of clean answers."""
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


def _attack_batch(
    model: Classifier,
    source: Classifier | None,
    images: Tensor,
    labels: Tensor,
    name: str,
    attack: Attack,
    budgets: Sequence[Eps],
    norm: str,
    generator: torch.Generator,
    batch_size: int | None,
) -> Iterator[tuple[Eps, EnsembleResult, pd.DataFrame]]:
    """Yields eps, adversarial images and the model's answers, smallest eps first."""
    # A success chosen by its effect on this model must not be reused for a transfer.
    skips_successes = attack.is_iterative and source is None
    active = torch.ones(len(images), dtype=torch.bool, device=images.device)
    if skips_successes:
        clean = score_batch(model, images, labels, batch_size)
        active = ~is_success(clean, attack.objective).to(images.device)
    adv_images = images.clone()
    members = torch.full((len(images),), -1, device=images.device)
    run = _CachedDirection(attack) if isinstance(attack, LinearAttack) else attack
    for eps in budgets:
        result = run_attack(
            run,  # type: ignore[arg-type]
            name,
            model if source is None else source,
            images[active],
            labels[active],
            eps=eps[active] if isinstance(eps, Tensor) else eps,
            norm=norm,
            generator=generator,
            batch_size=batch_size,
        )
        adv_images, members = adv_images.clone(), members.clone()
        adv_images[active], members[active] = result.adv_images, result.winning_member
        if not bool(is_allowed(adv_images, images, eps, norm).all()):
            text = "of each image" if isinstance(eps, Tensor) else f"{eps:g}"
            raise UserError(
                f"attack {name!r} left its budget of {norm} eps {text} or the [0,1] box: "
                "its results would mean nothing"
            )
        answers = score_batch(model, adv_images, labels, batch_size)
        has_succeeded = is_success(answers, attack.objective).to(images.device)
        stats = result.member_stats
        if len(stats) == 1:
            num_successes = int((has_succeeded & active).sum())
            stats = (replace(stats[0], num_successes=num_successes),)
        yield eps, EnsembleResult(adv_images, members.where(has_succeeded, -1), stats), answers
        if skips_successes:
            active = ~has_succeeded
