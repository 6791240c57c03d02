"""One model, one attack -> one outcome an image. Everything is scored here, outside the attacks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace

import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks import Attack
from nullclass.attacks.base import LinearAttack, access_of, frozen
from nullclass.attacks.counters import count_passes
from nullclass.attacks.ensemble import EnsembleResult, MemberStats, run_attack
from nullclass.attacks.fmn import FMN
from nullclass.attacks.losses import find_objective
from nullclass.core.errors import UserError
from nullclass.core.losses import cross_entropy
from nullclass.core.norms import Eps, check_eps, find_ball, is_allowed, step_along
from nullclass.core.outcomes import NULL_LABEL, OUTCOME_NAMES, outcomes, predictions
from nullclass.data import LabelledImages
from nullclass.metrics.rates import GIVEN, OWN, SELF
from nullclass.models.classifier import Classifier
from nullclass.rejection import null_scores
from nullclass.results.schema import COST_COLUMNS, COST_COUNTS, Examples

BATCH_SIZE = 512
"""Images scored or attacked at once; bounds the memory an evaluation takes."""

CLEAN = "none"
"""Name of no attack, and of no member of one."""

OnImages = Callable[[int], None]
"""Told how many images have been dealt with since it was last called."""


@dataclass(frozen=True)
class AttackResult:
    """An attack's rows, what it cost, and a few images."""

    rows: pd.DataFrame
    """:data:`nullclass.results.schema.ROW_COLUMNS`."""
    costs: pd.DataFrame
    """:data:`nullclass.results.schema.COST_COLUMNS`."""
    examples: list[Examples]


def score_clean(
    model: Classifier, data: LabelledImages, *, norm: str = "linf", on_images: OnImages
) -> pd.DataFrame:
    """Rows of all images as they are."""
    tables = []
    with frozen(model):
        for indices in torch.arange(len(data)).split(BATCH_SIZE):
            scored = score_batch(model, *batch_of(model, data, indices))
            tables.append(rows_of(indices, scored, CLEAN, CLEAN, CLEAN, norm, 0.0))
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
    seed: int = 0,
    on_images: OnImages,
) -> AttackResult:
    """Attack some images at every budget and score what comes out.

    Args:
        model: The model to score.
        data: Images and labels.
        chosen: ``(N,)`` positions of the images to attack.
        name: The attack's name in rows.
        attack: The attack.
        budgets: Eps in pixel units, rising, each for all images; or ``(N,)``, one for each image.
        norm: Name in :data:`nullclass.core.norms.BALLS`.
        source: The model to attack, if it is another.
        source_name: What the rows call the model attacked.
        num_examples: How many images to keep for showing, at every budget.
        seed: Seed of the attack's random starts.
        on_images: Progress.

    Raises:
        UserError: If a budget makes no sense, or the attack leaves it or the [0,1] box.
    """
    for budget in [budgets] if isinstance(budgets, Tensor) else budgets:
        check_eps(budget, norm, torch.Size((len(chosen), *data.images.shape[1:])))
    tables: list[pd.DataFrame] = []
    spent: list[dict[str, object]] = []
    examples: list[Examples] = []
    place = {
        "attack": name,
        "objective": attack.objective,
        "source": source_name,
        "norm": norm,
    }
    with frozen(model):
        for places in torch.arange(len(chosen)).split(BATCH_SIZE):
            indices = chosen[places]
            images, labels = batch_of(model, data, indices)
            eps: Sequence[Eps] = (
                [budgets[places].to(images.device)] if isinstance(budgets, Tensor) else budgets
            )
            generator = torch.Generator().manual_seed(seed_for(seed, int(places[0])))
            kept = slice(0, num_examples if int(places[0]) == 0 else 0)
            clean = score_batch(model, images[kept], labels[kept]) if kept.stop else None
            for budget, trace, scored in attack_batch(
                model, source, images, labels, name, attack, eps, norm, generator
            ):
                rows = rows_of(indices, scored, name, attack.objective, source_name, norm, budget)
                tables.append(rows.assign(member=members_of(trace)))
                told = math.nan if isinstance(budget, Tensor) else budget
                spent += [place | {"eps_pixels": told} | asdict(t) for t in trace.member_stats]
                if clean is not None:
                    shown = _examples(name, norm, budget, images, trace.adv_images, clean, scored)
                    examples.append(shown)
                on_images(len(indices))
    return AttackResult(pd.concat(tables, ignore_index=True), summed(spent), examples)


def score_smallest(
    model: Classifier,
    data: LabelledImages,
    name: str,
    attack: FMN,
    *,
    norm: str,
    num_examples: int,
    on_images: OnImages,
) -> AttackResult:
    """Look for each image's smallest eps that fools.

    The rows' ``eps_pixels`` are the sizes found; an image that could not be fooled has the largest
    there is. The examples are the images that fall first.
    """
    tables: list[pd.DataFrame] = []
    spent: list[dict[str, object]] = []
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    looks: list[tuple[Predictions, Predictions]] = []
    largest = find_ball(norm).largest(math.prod(data.images.shape[1:]))
    place = {
        "attack": name,
        "objective": attack.objective,
        "source": SELF,
        "norm": norm,
        "eps_pixels": math.nan,
    }
    for indices in torch.arange(len(data)).split(BATCH_SIZE):
        images, labels = batch_of(model, data, indices)
        started = time.perf_counter()
        with count_passes(model) as passes:
            adv_images, sizes = attack.smallest(model, images, labels, norm=norm)
        seconds = time.perf_counter() - started
        with frozen(model):
            clean, scored = (
                score_batch(model, images, labels),
                score_batch(model, adv_images, labels),
            )
        budgets = sizes.where(sizes.isfinite(), largest)
        rows = rows_of(indices, scored, name, attack.objective, SELF, norm, budgets)
        names = [name if is_found else CLEAN for is_found in sizes.isfinite().tolist()]
        tables.append(rows.assign(member=names))
        fell = int(sizes.isfinite().sum())
        tally = MemberStats(
            name,
            attack.access,
            attack.is_iterative,
            "ran",
            len(images),
            fell,
            passes.forward,
            passes.backward,
            seconds,
        )
        spent.append(place | asdict(tally))
        found.append((sizes, images, adv_images))
        looks.append((clean, scored))
        on_images(len(indices))
    sizes, images, adv_images = (torch.cat(parts) for parts in zip(*found, strict=True))
    # Those that fall first; what never fell, or was wrong before, is no example.
    found_at = (sizes.isfinite() & (sizes > 0)).nonzero().squeeze(1)
    order = found_at[sizes[found_at].argsort(stable=True)[:num_examples]]
    examples = []
    if len(order):
        clean, scored = (_joined(parts, order.cpu()) for parts in zip(*looks, strict=True))
        shown = _examples(name, norm, sizes[order], images[order], adv_images[order], clean, scored)
        examples.append(shown)
    return AttackResult(pd.concat(tables, ignore_index=True), summed(spent), examples)


def _joined(parts: Sequence[Predictions], chosen: Tensor) -> Predictions:
    """Some images of several batches."""
    joined = {
        column.name: torch.cat([getattr(part, column.name) for part in parts])[chosen]
        for column in fields(Predictions)
    }
    return Predictions(**joined)


def members_of(trace: EnsembleResult) -> list[str]:
    """The member each image fell to, by name."""
    names = [tally.member for tally in trace.member_stats]
    return [CLEAN if member < 0 else names[member] for member in trace.winning_member.tolist()]


def summed(spent: list[dict[str, object]]) -> pd.DataFrame:
    """Costs of batches added up, members in their order."""
    costs = pd.DataFrame(spent, columns=list(COST_COLUMNS)).astype(COST_COLUMNS)
    keys = [column for column in COST_COLUMNS if column not in COST_COUNTS]
    return costs.groupby(keys, sort=False, dropna=False, as_index=False)[COST_COUNTS].sum()


def seed_for(seed: int, first: int) -> int:
    """A seed of its own for every batch, so that a batch's result does not hang on the others."""
    return (seed * 1_000_003 + first) % 2**63


@dataclass(frozen=True)
class Predictions:
    """What the model made of a batch, on the CPU."""

    labels: Tensor
    predictions: Tensor
    outcomes: Tensor
    confidences: Tensor
    losses: Tensor
    null_losses: Tensor
    real_predictions: Tensor
    null_scores: Tensor


def check_labels(images: LabelledImages, model: Classifier) -> None:
    """Refuse labels that are no real class of the model.

    Raises:
        UserError: If there are some.
    """
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= model.num_classes:
        raise UserError(
            f"labels run from {low} to {high}; the model has the classes 0 to "
            f"{model.num_classes - 1}"
        )


def batch_of(model: Classifier, data: LabelledImages, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Images and labels at some positions, on the model's device."""
    device = model.mean.device
    images, labels = data.batch(indices)
    return images.to(device), labels.to(device)


@torch.no_grad()
def score_batch(model: Classifier, images: Tensor, labels: Tensor) -> Predictions:
    """What the model makes of images ``(N, C, H, W)`` with real labels.

    Raises:
        UserError: If its logits are not finite.
    """
    logits = model(images)
    if not bool(logits.isfinite().all()):
        raise UserError(
            "the model's logits are not finite (NaN or infinite): its weights are broken"
        )
    num_classes = model.num_classes
    predicted = predictions(logits, num_classes)
    null = torch.full_like(labels, NULL_LABEL)
    has_null = logits.shape[1] == num_classes + 1
    nowhere = torch.full(labels.shape, math.nan)
    return Predictions(
        labels=labels.cpu(),
        predictions=predicted.cpu(),
        outcomes=outcomes(predicted, labels).cpu(),
        confidences=logits.softmax(dim=1).amax(dim=1).cpu(),
        losses=cross_entropy(logits, labels, reduction="none").cpu(),
        null_losses=cross_entropy(logits, null, reduction="none").cpu() if has_null else nowhere,
        real_predictions=logits[:, :num_classes].argmax(dim=1).cpu(),
        null_scores=null_scores(logits, num_classes).cpu(),
    )


def rows_of(
    indices: Tensor,
    scored: Predictions,
    attack: str,
    objective: str,
    source_name: str,
    norm: str,
    eps: Eps,
) -> pd.DataFrame:
    """Rows of some images under one attack at one eps; ``member`` is still to be filled in."""
    return pd.DataFrame(
        {
            "image": indices.numpy(),
            "label": scored.labels.numpy(),
            "attack": attack,
            "objective": objective,
            "source": source_name,
            "norm": norm,
            "budget": OWN if isinstance(eps, Tensor) else GIVEN,
            "eps_pixels": eps.cpu().numpy() if isinstance(eps, Tensor) else eps,
            "member": CLEAN,
            "prediction": scored.predictions.numpy(),
            "outcome": [OUTCOME_NAMES[code] for code in scored.outcomes.tolist()],
            "confidence": scored.confidences.numpy(),
            "loss": scored.losses.numpy(),
            "null_loss": scored.null_losses.numpy(),
            "real_prediction": scored.real_predictions.numpy(),
            "null_score": scored.null_scores.numpy(),
        }
    )


def attack_batch(
    model: Classifier,
    source: Classifier | None,
    images: Tensor,
    labels: Tensor,
    name: str,
    attack: Attack,
    budgets: Sequence[Eps],
    norm: str,
    generator: torch.Generator,
) -> Iterator[tuple[Eps, EnsembleResult, Predictions]]:
    """One batch at every eps, smallest first, successes carried along if the attack searches."""
    objective = find_objective(attack.objective)
    attacked_model = model if source is None else source
    # What is carried to a larger eps was chosen by looking at the model scored.
    carries = attack.is_iterative and source is None
    carried = images.clone()
    winning_member = torch.full((len(images),), -1, device=images.device)
    stands = torch.ones(len(images), dtype=torch.bool, device=images.device)
    if carries:  # a clean image that is fooled needs no attack
        clean = score_batch(model, images, labels)
        stands = ~objective.is_reached(clean.outcomes).to(images.device)
    direction = None
    for eps in budgets:
        if isinstance(attack, LinearAttack):  # one gradient serves every eps
            trace, direction = _along_ray(
                attack, direction, attacked_model, images, labels, name, eps, norm
            )
        else:
            trace = run_attack(
                attack,
                name,
                attacked_model,
                images[stands],
                labels[stands],
                eps=eps[stands] if isinstance(eps, Tensor) else eps,
                norm=norm,
                generator=generator,
            )
        adv_images = carried.clone()
        adv_images[stands] = trace.adv_images
        if not bool(is_allowed(adv_images, images, eps, norm).all()):
            told = "each image's own" if isinstance(eps, Tensor) else f"{eps:g}"
            raise UserError(
                f"attack {name!r} left its budget of {norm} eps {told} or the [0,1] box: "
                "its results would mean nothing"
            )
        scored = score_batch(model, adv_images, labels)
        members = winning_member.clone()
        members[stands] = trace.winning_member
        is_reached = objective.is_reached(scored.outcomes).to(images.device)
        member_stats = trace.member_stats
        if len(member_stats) == 1:
            num_successes = int((is_reached & stands).sum())
            member_stats = (replace(member_stats[0], num_successes=num_successes),)
        yield eps, EnsembleResult(adv_images, members.where(is_reached, -1), member_stats), scored
        if carries:
            carried, winning_member, stands = adv_images, members, ~is_reached


def _along_ray(
    attack: LinearAttack,
    direction: Tensor | None,
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    name: str,
    eps: Eps,
    norm: str,
) -> tuple[EnsembleResult, Tensor]:
    """One point of a ray; its gradient is taken, and paid for, at the first eps."""
    started = time.perf_counter()
    with count_passes(model) as passes:
        if direction is None:
            direction = attack.direction(model, images, labels, norm=norm)
    tally = MemberStats(
        name,
        access_of(attack),
        False,  # a ray is a fixed recipe
        "ran",
        len(images),
        len(images),
        passes.forward,
        passes.backward,
        time.perf_counter() - started,
    )
    adv_images = step_along(direction, images, eps, norm)
    return EnsembleResult(adv_images, torch.zeros_like(labels), (tally,)), direction


def _examples(
    attack: str,
    norm: str,
    eps: Eps,
    images: Tensor,
    adv_images: Tensor,
    clean: Predictions,
    scored: Predictions,
) -> Examples:
    kept = slice(0, len(clean.labels))
    own = eps[kept].tolist() if isinstance(eps, Tensor) else [eps] * len(clean.labels)
    return Examples(
        attack=attack,
        norm=norm,
        eps_pixels=math.nan if isinstance(eps, Tensor) else eps,
        budgets=own,
        labels=clean.labels.tolist(),
        clean_predictions=clean.predictions.tolist(),
        clean_confidences=clean.confidences.tolist(),
        predictions=scored.predictions[kept].tolist(),
        confidences=scored.confidences[kept].tolist(),
        clean=images[kept].cpu().numpy(),
        adv_images=adv_images[kept].cpu().numpy(),
    )
