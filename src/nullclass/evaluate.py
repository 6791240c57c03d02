"""model x attack x eps -> one outcome an image. Everything is scored here, outside the attacks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor, nn

from nullclass.attacks import Attack
from nullclass.attacks.base import Ray, frozen
from nullclass.attacks.geometry import Eps, along, check_eps, is_allowed
from nullclass.attacks.objectives import find_objective
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.errors import UserError
from nullclass.losses import cross_entropy
from nullclass.models.classifier import Classifier
from nullclass.outcomes import NULL_LABEL, OUTCOME_NAMES, outcomes, predictions
from nullclass.records import ROW_COLUMNS, Examples
from nullclass.summary import GIVEN, OWN, summarise

BATCH_SIZE = 256
"""Images scored or attacked at once; bounds the memory an evaluation takes."""

CLEAN = "none"
"""Name of no attack."""

SELF = "self"
"""``made_on`` of an attack made on the very model it is scored on."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of every image under every attack."""

    rows: pd.DataFrame = field(repr=False)
    """One attacked image a line: :data:`nullclass.records.ROW_COLUMNS`."""
    examples: list[Examples] = field(repr=False)
    """The first few images under each attack and eps, to show."""

    def summary(self) -> pd.DataFrame:
        """Rates with 95 % intervals, one a line: see :func:`nullclass.summary.summarise`."""
        return summarise(self.rows)


OnImages = Callable[[int], None]
"""Told how many images have been dealt with since it was last called."""


def evaluate(
    model: nn.Module,
    data: LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    *,
    attacks: Mapping[str, Attack],
    eps: float | Sequence[float] | Mapping[str, Sequence[float]],
    norm: str = "linf",
    num_images: int | Mapping[str, int] | None = None,
    num_classes: int | None = None,
    source: nn.Module | None = None,
    num_examples: int = 0,
    seed: int = 0,
    on_images: OnImages | None = None,
) -> Evaluation:
    """Attack a model and score every image, clean and attacked.

    For an attack that searches the ball for one success, what succeeded at a smaller eps counts
    at every larger one and is not attacked again.

    Args:
        model: A :class:`Classifier`, or any module from [0,1] images ``(N, C, H, W)`` to logits
            with null last; then give ``num_classes``.
        data: Test images in [0,1] with labels: tensors, a loader, or :class:`LabelledImages`.
        attacks: Attacks by the name they get in the rows.
        eps: Budgets in pixel units, for all attacks or by attack.
        norm: ``linf`` or ``l2``.
        num_images: How many of the first images are attacked, for all attacks or by attack; all
            unless said. The clean images are always all scored.
        num_classes: K, the number of real classes (without null), for a module that does not say.
        source: Another model to make the attacks on, to see how they transfer; the rows then say
            ``made_on`` source. Nothing is carried from a smaller eps to a larger one.
        num_examples: How many of the first attacked images to keep for showing.
        seed: Seed of the attacks' random starts.
        on_images: Progress: called with the number of images just scored.

    Returns:
        Rows and examples; :meth:`Evaluation.summary` gives the rates.

    Raises:
        UserError: If images, labels, eps or the model's outputs make no sense.
    """
    if not isinstance(attacks, Mapping) or not all(map(_is_attack, attacks.values())):
        raise UserError("attacks must be a dictionary from names to attacks, as {'fgsm': FGSM()}")
    if isinstance(eps, int | float):
        eps = (eps,)
    images = tensors_or_loader(data)
    classifier = as_classifier(model, num_classes, images.batch([0])[0])
    if int(images.labels.min()) < 0 or int(images.labels.max()) >= classifier.num_classes:
        raise UserError(
            f"labels run from {int(images.labels.min())} to {int(images.labels.max())}; the model "
            f"has the classes 0 to {classifier.num_classes - 1}"
        )
    for settings, what in ((eps, "eps"), (num_images, "num_images")):
        lacking = set(attacks) - set(settings) if isinstance(settings, Mapping) else set()
        if lacking:
            raise UserError(f"{what} says nothing for the attack {min(lacking)!r}")
    plan = {name: sorted(set(eps[name] if isinstance(eps, Mapping) else eps)) for name in attacks}
    if not all(plan.values()):
        raise UserError("give at least one eps for every attack")
    for budget in (budget for budgets in plan.values() for budget in budgets):
        check_eps(budget, norm, images.images.shape)
    counts = {}
    for name in attacks:
        wanted = num_images[name] if isinstance(num_images, Mapping) else num_images
        if wanted is not None and wanted < 1:
            raise UserError(f"num_images must be at least 1, not {wanted}; None attacks all images")
        counts[name] = len(images) if wanted is None else min(wanted, len(images))
    other = None if source is None else as_classifier(source, num_classes, images.batch([0])[0])
    told = on_images or (lambda _: None)
    tables = [score_clean(classifier, images, norm=norm, on_images=told)]
    examples: list[Examples] = []
    for name, attack in attacks.items():
        table, kept = score_attack(
            classifier,
            images,
            torch.arange(counts[name]),
            name,
            attack,
            plan[name],
            norm=norm,
            source=other,
            made_on=SELF if other is None else "source",
            num_examples=num_examples,
            seed=seed,
            on_images=told,
        )
        tables.append(table)
        examples += kept
    return Evaluation(in_order(tables), examples)


def in_order(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of rows as one, by attack, eps and image."""
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.sort_values(["attack", "eps_pixels", "image"], kind="stable", ignore_index=True)
    return rows[list(ROW_COLUMNS)]


def score_clean(
    model: Classifier, data: LabelledImages, *, norm: str = "linf", on_images: OnImages
) -> pd.DataFrame:
    """Rows of all images as they are."""
    tables = []
    with frozen(model):
        for indices in torch.arange(len(data)).split(BATCH_SIZE):
            scored = _score(model, *_batch(model, data, indices))
            tables.append(_rows(indices, scored, CLEAN, CLEAN, CLEAN, norm, 0.0))
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
    made_on: str = SELF,
    num_examples: int = 0,
    seed: int = 0,
    on_images: OnImages,
) -> tuple[pd.DataFrame, list[Examples]]:
    """Attack some images at every budget and score what comes out.

    Args:
        model: The model to score.
        data: Images and labels.
        chosen: ``(N,)`` positions of the images to attack.
        name: The attack's name in rows.
        attack: The attack.
        budgets: Eps in pixel units, rising, each for all images; or ``(N,)``, one for each image.
        norm: ``linf`` or ``l2``.
        source: The model to attack, if it is another.
        made_on: What the rows call the model attacked.
        num_examples: How many images to keep for showing, at every budget.
        seed: Seed of the attack's random starts.
        on_images: Progress.

    Returns:
        Rows and examples.
    """
    for budget in [budgets] if isinstance(budgets, Tensor) else budgets:
        check_eps(budget, norm, torch.Size((len(chosen), *data.images.shape[1:])))
    tables: list[pd.DataFrame] = []
    examples: list[Examples] = []
    with frozen(model):
        for places in torch.arange(len(chosen)).split(BATCH_SIZE):
            indices = chosen[places]
            images, labels = _batch(model, data, indices)
            eps: Sequence[Eps] = (
                [budgets[places].to(images.device)] if isinstance(budgets, Tensor) else budgets
            )
            generator = torch.Generator().manual_seed(_stream(seed, int(places[0])))
            kept = slice(0, num_examples if int(places[0]) == 0 else 0)
            clean = _score(model, images[kept], labels[kept]) if kept.stop else None
            for budget, attacked, scored in _attack_batch(
                model, source, images, labels, name, attack, eps, norm, generator
            ):
                goal = attack.objective
                tables.append(_rows(indices, scored, name, goal, made_on, norm, budget))
                if clean is not None:
                    shown = _examples(name, norm, budget, images, attacked, clean, scored)
                    examples.append(shown)
                on_images(len(indices))
    return pd.concat(tables, ignore_index=True), examples


def as_classifier(model: nn.Module, num_classes: int | None, image: Tensor) -> Classifier:
    """A :class:`Classifier` as it is; any other module wrapped, its null logit found by count.

    Args:
        model: The model.
        num_classes: K, for a plain module.
        image: One image ``(1, C, H, W)`` to count the logits with.

    Raises:
        UserError: If the number of classes is missing, or is not the model's.
    """
    if isinstance(model, Classifier):
        if num_classes not in (None, model.num_classes):
            raise UserError(f"the model has {model.num_classes} classes, not {num_classes}")
        return model
    if num_classes is None:
        raise UserError("give num_classes, the number of real classes: a plain module does not say")
    parameter = next(model.parameters(), None)  # images go where the model is
    device = image.device if parameter is None else parameter.device
    with frozen(model), torch.no_grad():
        has_null = model(image.to(device)).shape[-1] == num_classes + 1
    if not has_null:
        warnings.warn(
            f"the module has no more than {num_classes} logits, so none of them counts as null; if "
            "its last one is null, num_classes is one less",
            stacklevel=3,
        )
    return Classifier(model, num_classes, has_null=has_null).to(device)


def _is_attack(attack: object) -> bool:
    return callable(attack) and hasattr(attack, "objective") and not isinstance(attack, type)


def _stream(seed: int, first: int) -> int:
    """A seed of its own for every batch, so that a batch's result does not hang on the others."""
    return (seed * 1_000_003 + first) % 2**63


@dataclass(frozen=True)
class _Scored:
    """What the model made of a batch, on the CPU."""

    labels: Tensor
    predictions: Tensor
    outcomes: Tensor
    confidences: Tensor
    losses: Tensor
    null_losses: Tensor


def _batch(model: Classifier, data: LabelledImages, indices: Tensor) -> tuple[Tensor, Tensor]:
    device = model.mean.device
    images, labels = data.batch(indices)
    return images.to(device), labels.to(device)


@torch.no_grad()
def _score(model: Classifier, images: Tensor, labels: Tensor) -> _Scored:
    logits = model(images)
    if not bool(logits.isfinite().all()):
        raise UserError(
            "the model's logits are not finite (NaN or infinite): its weights are broken"
        )
    predicted = predictions(logits, model.num_classes)
    null = torch.full_like(labels, NULL_LABEL)
    has_null = logits.shape[1] == model.num_classes + 1
    nowhere = torch.full(labels.shape, math.nan)
    return _Scored(
        labels=labels.cpu(),
        predictions=predicted.cpu(),
        outcomes=outcomes(predicted, labels).cpu(),
        confidences=logits.softmax(dim=1).amax(dim=1).cpu(),
        losses=cross_entropy(logits, labels, reduction="none").cpu(),
        null_losses=cross_entropy(logits, null, reduction="none").cpu() if has_null else nowhere,
    )


def _rows(
    indices: Tensor,
    scored: _Scored,
    attack: str,
    objective: str,
    made_on: str,
    norm: str,
    eps: Eps,
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": indices.numpy(),
            "label": scored.labels.numpy(),
            "attack": attack,
            "objective": objective,
            "made_on": made_on,
            "norm": norm,
            "budget": OWN if isinstance(eps, Tensor) else GIVEN,
            "eps_pixels": eps.cpu().numpy() if isinstance(eps, Tensor) else eps,
            "prediction": scored.predictions.numpy(),
            "outcome": [OUTCOME_NAMES[code] for code in scored.outcomes.tolist()],
            "confidence": scored.confidences.numpy(),
            "loss": scored.losses.numpy(),
            "null_loss": scored.null_losses.numpy(),
        }
    )


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
) -> Iterable[tuple[Eps, Tensor, _Scored]]:
    """One batch at every eps, smallest first, successes carried along if the attack searches."""
    objective = find_objective(attack.objective)
    attacked_model = model if source is None else source
    # What is carried to a larger eps was chosen by looking at the model scored.
    carries = attack.is_search and source is None
    carried = images.clone()
    stands = torch.ones(len(images), dtype=torch.bool, device=images.device)
    if carries:  # a clean image that is fooled needs no attack
        stands = ~objective.is_reached(_score(model, images, labels).outcomes).to(images.device)
    direction = None
    if isinstance(attack, Ray):  # one gradient serves every eps
        direction = attack.direction(attacked_model, images, labels, norm=norm)
    for eps in budgets:
        attacked = carried.clone()
        if direction is not None:
            attacked = along(direction, images, eps, norm)
        elif bool(stands.any()):
            attacked[stands] = attack(
                attacked_model,
                images[stands],
                labels[stands],
                eps=eps[stands] if isinstance(eps, Tensor) else eps,
                norm=norm,
                generator=generator,
            )
        if not bool(is_allowed(attacked, images, eps, norm).all()):
            told = "each image's own" if isinstance(eps, Tensor) else f"{eps:g}"
            raise UserError(
                f"attack {name!r} left its budget of {norm} eps {told} or the [0,1] box: "
                "its results would mean nothing"
            )
        scored = _score(model, attacked, labels)
        if carries:
            carried = attacked
            stands = ~objective.is_reached(scored.outcomes).to(images.device)
        yield eps, attacked, scored


def _examples(
    attack: str,
    norm: str,
    eps: Eps,
    images: Tensor,
    attacked: Tensor,
    clean: _Scored,
    scored: _Scored,
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
        attacked=attacked[kept].cpu().numpy(),
    )
