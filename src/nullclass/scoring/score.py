"""Turns images, clean or attacked, into rows: what the model answers, and with which outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.attacks.base import LinearAttack, access_of
from nullclass.attacks.ensemble import MemberStats, run_attack
from nullclass.attacks.losses import find_objective
from nullclass.attacks.state import logits_of
from nullclass.core.devices import BATCH_SIZE, exact_float32
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.core.modules import frozen
from nullclass.core.norms import Eps, check_eps, is_allowed, step_along
from nullclass.core.outcomes import (
    NULL_LABEL,
    OUTCOME_NAMES,
    outcomes,
    predictions,
)
from nullclass.data import LabelledImages
from nullclass.models.classifier import Classifier
from nullclass.rejection import null_scores
from nullclass.results.schema import (
    CLEAN,
    COST_COLUMNS,
    COST_COUNTS,
    NO_MEMBER,
    ROW_COLUMNS,
    SELF,
    Examples,
)

OnImages = Callable[[int], None]
"""Progress callback: receives the number of images scored since the last call."""


def ignore(num_images: int) -> None:
    """Progress callback that does nothing."""


def check_labels(data: LabelledImages, model: Classifier) -> None:
    """Refuse labels that are not real classes of the model.

    Raises:
        UserError: If there are any.
    """
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= model.num_classes:
        raise UserError(
            f"labels run from {low} to {high}; the model has the classes 0 to "
            f"{model.num_classes - 1}"
        )


def batch_of(model: Classifier, data: LabelledImages, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Images and labels at the given indices, on the model's device."""
    images, labels = data.batch(indices)
    return images.to(model.mean.device), labels.to(model.mean.device)


def batches_of(
    model: Classifier,
    data: LabelledImages,
    chosen: Tensor | None = None,
    *,
    size: int | None = None,
    on_images: OnImages = ignore,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Indices, images and labels in batches, the latter two on the model's device.

    Args:
        model: The model.
        data: Images and labels.
        chosen: ``(N,)`` indices. Default: all, in order.
        size: Images per batch. Default: :data:`nullclass.core.devices.BATCH_SIZE`.
        on_images: Called after each batch.
    """
    chosen = torch.arange(len(data)) if chosen is None else chosen
    for indices in chosen.split(size or BATCH_SIZE):
        yield indices, *batch_of(model, data, indices)
        on_images(len(indices))


def score_batch(
    model: Classifier,
    images: Tensor,
    labels: Tensor | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Returns one row per image with the model's answer.

    Args:
        model: The model; its mode and gradients are left as they are.
        images: ``(N, C, H, W)`` in [0,1], on the model's device.
        labels: ``(N,)`` real classes; None for images that belong to no class.
        batch_size: Images per forward pass.

    Returns:
        Columns ``prediction`` (-1 for null), ``real_prediction`` (the best real class),
        ``confidence`` (softmax probability of the answer) and ``null_score``
        (:func:`nullclass.rejection.null_scores`). With labels also ``label``,
        ``outcome``, ``loss`` (cross-entropy to the label) and ``null_loss`` (cross-entropy to
        null; NaN without a null class).

    Raises:
        UserError: If the logits are not finite.
    """
    num_classes = model.num_classes
    with frozen(model), torch.no_grad():
        logits = logits_of(model, images, batch_size)
        columns = {
            "prediction": predictions(logits, num_classes),
            "real_prediction": logits[:, :num_classes].argmax(dim=1),
            "confidence": logits.softmax(dim=1).amax(dim=1),
            "null_score": null_scores(logits, num_classes),
        }
        if labels is not None:
            nulls = torch.full_like(labels, NULL_LABEL)
            has_null = logits.shape[1] > num_classes
            columns |= {
                "label": labels,
                "outcome": outcomes(columns["prediction"], labels),
                "loss": cross_entropy(logits, labels, reduction="none"),
                "null_loss": cross_entropy(logits, nulls, reduction="none")
                if has_null
                else torch.full(labels.shape, torch.nan),
            }
    return table_of(columns)


def table_of(columns: Mapping[str, Tensor]) -> pd.DataFrame:
    """One row per image from columns ``(N,)`` on any device, outcomes by their names."""
    table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    if "outcome" in table:
        table["outcome"] = [OUTCOME_NAMES[code] for code in table["outcome"]]
    return table


def label_rows(
    answers: pd.DataFrame,
    indices: Tensor,
    *,
    attack: str = CLEAN,
    objective: str = CLEAN,
    source: str = CLEAN,
    norm: str,
    eps: Eps = 0.0,
    members: list[str] | str = CLEAN,
) -> pd.DataFrame:
    """Rows of :func:`score_batch` with the columns that say what was done to the images.

    Args:
        answers: From :func:`score_batch`, with labels.
        indices: ``(N,)`` indices of the images in the dataset.
        attack: Name of the attack.
        objective: Its objective.
        source: Name of the attacked model.
        norm: Norm of the budget.
        eps: The budget in pixel units, or ``(N,)``, one per image.
        members: Name of the ensemble member that succeeded, per image.
    """
    return answers.assign(
        image=indices.numpy(),
        attack=attack,
        objective=objective,
        source=source,
        norm=norm,
        has_own_eps=isinstance(eps, Tensor),
        eps_pixels=eps.cpu().numpy() if isinstance(eps, Tensor) else eps,
        member=members,
    )


def is_success(answers: pd.DataFrame, objective: str) -> Tensor:
    """``(N,)`` booleans on the CPU: whether each row's outcome is a success for the attacker."""
    codes = [OUTCOME_NAMES.index(outcome) for outcome in answers["outcome"]]
    return find_objective(objective).is_reached(torch.tensor(codes, dtype=torch.int64))


def sort_rows(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenates tables of rows, sorted by attack, eps and image."""
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.sort_values(["attack", "eps_pixels", "image"], kind="stable", ignore_index=True)
    return rows[list(ROW_COLUMNS)]


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
def score_clean(
    model: Classifier,
    data: LabelledImages,
    *,
    norm: str = "linf",
    batch_size: int | None = None,
    on_images: OnImages = ignore,
) -> pd.DataFrame:
    """Rows of the unmodified images."""
    tables = [
        label_rows(score_batch(model, images, labels, batch_size), indices, norm=norm)
        for indices, images, labels in batches_of(model, data, on_images=on_images)
    ]
    return pd.concat(tables, ignore_index=True)


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
        generator = torch.Generator().manual_seed(batch_seed(seed, start))
        run = _CachedDirection(attack) if isinstance(attack, LinearAttack) else attack
        adv_images, active = images, torch.ones_like(labels, dtype=torch.bool)
        members = torch.full_like(labels, -1)
        is_shown = start == 0 and num_examples > 0
        if skips_successes or is_shown:
            clean = score_batch(model, images, labels, batch_size)
        if skips_successes:
            active = ~is_success(clean, attack.objective).to(images.device)
        own = budgets[start : start + len(indices)] if isinstance(budgets, Tensor) else None
        for eps in budgets if own is None else [own.to(images.device)]:
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
            _check_budget(name, adv_images, images, eps, norm)
            answers = score_batch(model, adv_images, labels, batch_size)
            succeeded = is_success(answers, attack.objective).to(images.device)
            stats = result.member_stats
            if len(stats) == 1:
                stats = (replace(stats[0], num_successes=int((succeeded & active).sum())),)
            names = winning_members(members.where(succeeded, -1), stats)
            tables.append(label_rows(answers, indices, **keys, eps=eps, members=names))
            eps_of_all = math.nan if isinstance(eps, Tensor) else eps
            costs += [keys | {"eps_pixels": eps_of_all} | asdict(each) for each in stats]
            if is_shown:
                shown = clean[:num_examples]
                examples.append(make_examples(name, norm, eps, images, adv_images, shown, answers))
            if keep_images:
                kept.setdefault(eps_of_all, []).append(adv_images.detach().cpu())
            if skips_successes:
                active = ~succeeded
            on_images(len(indices))
        start += len(indices)
    return AttackResult(
        pd.concat(tables, ignore_index=True),
        sum_costs(costs),
        examples,
        {eps: torch.cat(parts) for eps, parts in kept.items()},
    )


def batch_seed(seed: int, first: int) -> int:
    """The seed of the batch that starts at an index, independent of the other batches."""
    return (seed * 1_000_003 + first) % 2**63


def winning_members(members: Tensor, stats: Sequence[MemberStats]) -> list[str]:
    """Per image, the name of the ensemble member that succeeded."""
    return [NO_MEMBER if member < 0 else stats[member].member for member in members.tolist()]


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


def _check_budget(name: str, adv_images: Tensor, images: Tensor, eps: Eps, norm: str) -> None:
    if not bool(is_allowed(adv_images, images, eps, norm).all()):
        text = "of each image" if isinstance(eps, Tensor) else f"{eps:g}"
        raise UserError(
            f"attack {name!r} left its budget of {norm} eps {text} or the [0,1] box: its results "
            "would mean nothing"
        )
