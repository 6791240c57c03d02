"""Runs an attack on images at every budget, and turns the adversarial images into rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.core.devices import exact_float32
from nullclass.core.norms import Eps, check_eps
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.results.schema import (
    COST_COLUMNS,
    COST_COUNTS,
    SELF,
    Examples,
)
from nullclass.scoring.attack_batch import BatchAttack
from nullclass.scoring.audit import find_proved_eps
from nullclass.scoring.eps_order import attack_at_every_eps
from nullclass.scoring.parts import FEW, NOTHING, Parts
from nullclass.scoring.score import (
    OnImages,
    batch_seed,
    batches_of,
    ignore,
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
    certified: pd.DataFrame | None = None,
    num_examples: int = 0,
    keep_images: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
) -> AttackResult:
    """Attack images at every budget and score the adversarial images.

    Which images are attacked at which eps is described in :mod:`nullclass.scoring.eps_order`.

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
        certified: Proofs of the images (:data:`nullclass.results.schema.CERTIFIED_COLUMNS`). An
            iterative attack with the objective ``fool`` on the model itself leaves out images
            proved never to be fooled, except for an audit (:mod:`nullclass.scoring.audit`).
        num_examples: How many images to keep per budget, for figures.
        keep_images: Whether to return all adversarial images.
        batch_size: Images per forward and backward pass. Default: the attack's own.
        seed: Seed of the attack's random starts.
        on_images: Progress.
        parts: Keeps what is finished, after each batch, eps and ensemble member.

    Raises:
        UserError: If a budget is out of range, or the attack leaves its budget or the [0,1] box.
    """
    for budget in [budgets] if isinstance(budgets, Tensor) else budgets:
        check_eps(budget, norm, torch.Size((len(chosen), *data.images.shape[1:])))
    keys = {"attack": name, "objective": attack.objective, "source": source_name, "norm": norm}
    # A success chosen by its effect on this model must not be reused for a transfer.
    carries_successes = attack.is_iterative and source is None
    proved_eps = torch.full((len(chosen),), -math.inf, dtype=torch.float64)
    if certified is not None and carries_successes and attack.objective == "fool":
        proved_eps = find_proved_eps(certified, chosen, norm)
    tables: list[pd.DataFrame] = []
    costs: list[dict[str, object]] = []
    examples: list[Examples] = []
    images_at: dict[float, list[Tensor]] = {}
    start = 0
    attacked = model if source is None else source
    parts = parts.of(
        name,
        models=[model] if source is None else [model, source],
        images=data.batch(chosen[FEW])[0],
        attack=attack,
        norm=norm,
        seed=seed,
        batch_size=batch_size,
        carries_successes=carries_successes,
    )
    for indices, images, labels in batches_of(model, data, chosen):
        num_shown = num_examples if start == 0 else 0
        num_returned = len(indices) if keep_images else num_shown
        batch_budgets: Sequence[Eps] = (
            [budgets[start : start + len(indices)].to(images.device)]
            if isinstance(budgets, Tensor)
            else budgets
        )
        proved = proved_eps[start : start + len(indices)]
        kept = parts.of(
            str(start),
            images=images,
            labels=labels,
            budgets=batch_budgets,
            proved_eps=proved,
            num_returned=num_returned,
        )
        clean = None
        if carries_successes or num_shown:
            score = partial(score_batch, model, images, labels, batch_size)
            clean = kept.of("clean").keep(score)
        attacked_batch = BatchAttack(
            model,
            attacked,
            name,
            attack,
            images,
            labels,
            batch_budgets,
            norm=norm,
            clean=clean if carries_successes else None,
            proved_eps=proved,
            num_returned=num_returned,
            seed=batch_seed(seed, start),
            batch_size=batch_size,
            parts=kept,
        )
        finished = attack_at_every_eps(attacked_batch, partial(on_images, len(indices)))
        for eps, batch in zip(batch_budgets, finished, strict=True):
            rows = label_rows(
                batch.answers,
                indices,
                **keys,
                eps=eps,
                attacked_eps=batch.attacked_eps,
                members=batch.members,
            )
            tables.append(rows)
            eps_of_all = math.nan if isinstance(eps, Tensor) else eps
            costs += [keys | {"eps_pixels": eps_of_all} | asdict(each) for each in batch.stats]
            if clean is not None and num_shown:
                shown = clean[:num_shown]
                example = make_examples(
                    name, norm, eps, images, batch.adv_images, shown, batch.answers
                )
                examples.append(example)
            if keep_images:
                images_at.setdefault(eps_of_all, []).append(batch.adv_images)
        start += len(indices)
    return AttackResult(
        pd.concat(tables, ignore_index=True),
        sum_costs(costs),
        examples,
        {eps: torch.cat(batches) for eps, batches in images_at.items()},
    )


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
