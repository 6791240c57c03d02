"""Proves, per image, what no attack within eps can do to a classifier.

- :class:`~nullclass.rejection.ProvableNull` of radius r: an image is never fooled within eps if the
  inner model is proved to predict y within eps - r. It is always correct if interval bounds prove y
  within eps + r, because interval bounds of a ball are never looser than those of a larger ball.
- A learned null class: never fooled by :func:`nullclass.certify.not_fooled_margins`; always correct
  if y beats every other logit, null included.
- No null: never fooled means always correct, and the rate is the certified accuracy.

:class:`~nullclass.rejection.SmoothedNull` is refused: its answers hold with a confidence, and a row
here is a proof.

An attack may exceed eps by a rounding error that the evaluation tolerates. Every proof at eps
therefore covers ``eps + 1e-6``, so that an attack that breaks it (red flag ``proof-broken``)
reveals a mistake. ``ProvableNull`` predicts from bounds, which include the rounding of its own
arithmetic. For a learned null, ``interval`` proves the logits as the model computes them
(:data:`COARSENESS`); ``crown-ibp`` proves them as real numbers, without ties within their rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nullclass.certify import (
    CASCADE,
    Settled,
    Verifier,
    add_to_records,
    check_images,
    check_radius,
    find_verifier,
    interval_bounds,
    label_margins,
    not_fooled_margins,
    read_network,
    record_stages,
)
from nullclass.core.devices import exact_float32
from nullclass.core.errors import UserError
from nullclass.core.modules import frozen
from nullclass.core.norms import check_eps
from nullclass.core.outcomes import predictions
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.models.classifier import Classifier, check_classifier
from nullclass.rejection import ProvableNull, SmoothedNull, ThresholdedClassifier
from nullclass.results.schema import CERTIFIED_COLUMNS
from nullclass.scoring.parts import FEW, NOTHING, Parts
from nullclass.scoring.score import OnImages, batches_of, check_labels, ignore, table_of

BATCH_SIZE = 128
"""Images per batch: bounds take far more memory than logits, and a CPU's cache is small."""

FEW_AT_ONCE = 16
"""Images per batch of a search, or of a cascade: a batch is kept as a whole."""

NUM_HALVINGS = 10
"""Of the range of eps in a search."""

SLACK = 1e-6
"""How far a proof extends beyond eps, relative to max(1, eps)."""

COARSENESS = 8
"""Unit roundoff of interval bounds for a learned null, in units of the model's own. With a factor
of 4 the box of every layer contains the boxes, margins included, that the model itself computes for
an image of the ball; hence it contains the logits as the model rounds them."""

NEVER_LOOSER = ("interval", "crown-ibp", CASCADE)
"""Verifiers whose bounds are never below interval bounds."""

Prover = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""Images ``(N, C, H, W)``, labels ``(N,)``, the model's logits and eps to ``(N,)`` margins,
positive if the image is never fooled, and ``(N,)`` booleans: always correct."""


@exact_float32()
def prove(
    model: Classifier,
    data: LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    eps: float | Sequence[float],
    *,
    norm: str = "linf",
    verifier: str = "interval",
    num_images: int | None = None,
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
) -> pd.DataFrame:
    """Return rows of what is proved, one per image and eps.

    Rates are in :func:`nullclass.metrics.rates.proved_rates`. For a model without null the mean of
    ``is_correct_proved`` is the certified accuracy.

    Args:
        model: Any classifier, with or without null.
        data: Images in [0,1] and labels.
        eps: Budgets in pixel units.
        norm: ``linf`` or ``l2``; for a ``ProvableNull`` its own norm.
        verifier: Name in :data:`nullclass.certify.VERIFIERS`. A cascade has the budget of the
            model, if that is one.
        num_images: Number of images from the start; by default all.
        on_images: Called with the number of images of each finished batch.
        parts: Keeps what is finished, after each batch.

    Returns:
        Columns :data:`nullclass.results.schema.CERTIFIED_COLUMNS`. ``margin`` is the lower bound
        that decides ``is_never_fooled``: positive means proved.

    Raises:
        UserError: If the model cannot be bounded, or eps, norm, verifier, images or labels are
            invalid.
    """
    values: list[float] = list(eps) if np.ndim(eps) > 0 else [eps]  # type: ignore[arg-type, list-item]
    if not values:
        raise UserError("give at least one eps to prove something at")
    check_radius(0, norm)
    check_classifier(model)
    images = tensors_or_loader(data)
    if num_images is not None:
        images = images.up_to(num_images)
    for value in values:
        check_eps(value, norm, images.images.shape)
    budgets = sorted({float(value) for value in values})
    check_labels(images, model)
    tables = []
    with frozen(model), torch.no_grad():
        prover = _prover(model, norm, verifier, images.images.shape[1:])
        first = images.batch(FEW)[0]
        check_images(first, model.image_shape)
        parts = parts.of(models=[model], images=first, eps=budgets, norm=norm, verifier=verifier)
        size = FEW_AT_ONCE if _is_slow(model, verifier) else BATCH_SIZE
        batches = batches_of(model, images, size=size, on_images=on_images)
        for indices, batch, labels in batches:
            start = int(indices[0])
            kept = parts.of(f"{start}", images=batch, labels=labels)
            compute = partial(_prove_batch, model, prover, batch, labels, budgets)
            proved = _keep(kept, compute, start)
            tables += [table.assign(image=indices.numpy()) for table in proved]
    return _certified(tables, norm, verifier)


@exact_float32()
def prove_largest(
    model: Classifier,
    data: LabelledImages,
    limits: Tensor,
    *,
    norm: str = "linf",
    verifier: str = "interval",
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
) -> pd.DataFrame:
    """Search by bisection the largest eps at which each image is proved never to be fooled.

    Args:
        model: As for :func:`prove`, like the other arguments.
        data: The images.
        limits: ``(N,)``: the eps at which an attack fooled the image, else the largest eps there
            is. A proof at that eps is tried first, so that one that an attack refutes is found.
        norm: As for :func:`prove`.
        verifier: As for :func:`prove`.
        on_images: As for :func:`prove`.
        parts: As for :func:`prove`.

    Returns:
        One row per image as of :func:`prove`, at its largest eps: at most ``limits / 1024`` less
        than what the verifier can prove. Not ``is_never_fooled``, and eps 0, if nothing is proved.
    """
    tables = []
    with frozen(model), torch.no_grad():
        prover = _prover(model, norm, verifier, data.images.shape[1:])
        first = data.batch(FEW)[0]
        parts = parts.of(models=[model], images=first, norm=norm, verifier=verifier)
        size = 1 if _is_slow(model, verifier) else FEW_AT_ONCE
        for indices, batch, labels in batches_of(model, data, size=size, on_images=on_images):
            ends = limits[indices]
            start = int(indices[0])
            kept = parts.of(f"{start}", images=batch, labels=labels, limits=ends)
            compute = partial(_prove_each, model, prover, batch, labels, ends.tolist())
            found = _keep(kept, compute, start)
            named = zip(found, indices.tolist(), strict=True)
            tables += [table.assign(image=index) for table, index in named]
    return _certified(tables, norm, verifier).sort_values("image", ignore_index=True)


def _is_slow(model: Classifier, verifier: str) -> bool:
    """Whether a search takes seconds per image, so that few are kept at once."""
    return CASCADE in (verifier, getattr(model, "verifier", verifier))


def _keep(
    parts: Parts, compute: Callable[[], list[pd.DataFrame]], start: int
) -> list[pd.DataFrame]:
    """Return what was kept or computed of images from index ``start``, and record their stages."""

    def recorded() -> tuple[list[pd.DataFrame], list[dict[str, Any]]]:
        with record_stages(alone=True) as settled:
            tables = compute()
        return tables, [asdict(each) for each in settled]

    tables, settled = parts.keep(recorded)
    add_to_records(Settled(**(each | {"index": start + each["index"]})) for each in settled)
    return tables


def _prove_each(
    model: Classifier, prover: Prover, images: Tensor, labels: Tensor, limits: Sequence[float]
) -> list[pd.DataFrame]:
    """Return one table per image, of the largest eps proved."""
    tables = []
    for image, label, limit in zip(images.split(1), labels.split(1), limits, strict=True):
        is_proved = partial(_is_proved, prover, image, label, model(image))
        low, high = (limit, limit) if is_proved(limit) else (0.0, limit)
        for _ in range(NUM_HALVINGS if low < high and is_proved(0.0) else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if is_proved(middle) else (low, middle)
        tables += _prove_batch(model, prover, image, label, [low])
    return tables


def _is_proved(prover: Prover, image: Tensor, label: Tensor, logits: Tensor, eps: float) -> bool:
    return bool(prover(image, label, logits, eps)[0] > 0)


def _certified(tables: Sequence[pd.DataFrame], norm: str, verifier: str) -> pd.DataFrame:
    """Return the tables of batches as one, with all columns."""
    rows = pd.concat(tables).sort_values(["eps_pixels", "image"], kind="stable", ignore_index=True)
    status = np.select(
        [rows["is_correct_proved"], rows["is_never_fooled"]],
        ["correct", "not-fooled"],
        "undecided",
    )
    rows = rows.assign(norm=norm, verifier=verifier, status=status)
    return rows[list(CERTIFIED_COLUMNS)].astype(CERTIFIED_COLUMNS)


def check_provable(model: Classifier, norm: str, verifier: str, image_shape: Sequence[int]) -> None:
    """Refuse a model that :func:`prove` refuses.

    Raises:
        UserError: If the model cannot be bounded, or norm or verifier are invalid.
    """
    check_radius(0, norm)
    with frozen(model), torch.no_grad():
        _prover(model, norm, verifier, image_shape)


def _prove_batch(
    model: Classifier, prover: Prover, images: Tensor, labels: Tensor, budgets: Sequence[float]
) -> list[pd.DataFrame]:
    """Return one table per eps, one row per image."""
    logits = model(images)
    predicted = predictions(logits, model.num_classes)
    tables = []
    for budget in budgets:
        margins, is_always_correct = prover(images, labels, logits, budget)
        is_never_fooled = margins > 0
        columns = {
            "label": labels,
            "prediction": predicted,
            "margin": margins,
            "is_correct_proved": is_always_correct,
            "is_rar_proved": is_never_fooled & (predicted == labels),
            "is_never_fooled": is_never_fooled,
        }
        tables.append(table_of(columns).assign(eps_pixels=budget))
    return tables


def _prover(model: Classifier, norm: str, verifier: str, image_shape: Sequence[int]) -> Prover:
    verify = find_verifier(verifier, model.budget if isinstance(model, ProvableNull) else None)
    if isinstance(model, SmoothedNull):
        raise UserError(
            "randomised smoothing proves nothing, it certifies with a confidence: call "
            "model.certificates(images), which state it"
        )
    if isinstance(model, ThresholdedClassifier):
        raise UserError(
            "there are no proofs for a model that refuses by a threshold: prove the model inside, "
            "which decides by its largest logit"
        )
    if isinstance(model, ProvableNull) and model.norm != norm:
        raise UserError(
            f"the model proves its answers in {model.norm}, and nothing follows for {norm}: prove "
            f"in {model.norm}"
        )
    if model.has_null and not isinstance(model, ProvableNull) and verifier == CASCADE:
        raise UserError(
            "the cascade proves that one class wins, which a learned null class is not about: use "
            "crown-ibp"
        )
    inner = model.model if isinstance(model, ProvableNull) else model
    network = read_network(inner, image_shape)
    dtype = next(inner.parameters(), inner.mean).dtype
    coarse = partial(interval_bounds, coarseness=COARSENESS)

    def prover(images: Tensor, labels: Tensor, logits: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        images = images.to(dtype)

        def margins(radius: float, verifier: Verifier = verify) -> Tensor:
            return label_margins(network, images, labels, radius, norm=norm, verifier=verifier)

        radius = proof_radius(eps, norm)
        if isinstance(model, ProvableNull):
            needed = proof_radius(eps, norm, -model.radius)
            never = logits.gather(1, labels[:, None]).squeeze(1)
            is_open = torch.ones_like(never, dtype=torch.bool)
            if verifier == model.verifier:
                is_open = _is_open(never, model.radius, needed)
            chosen = is_open.nonzero().squeeze(1)
            if len(chosen):
                with record_stages(alone=True) as settled:
                    never[chosen] = label_margins(
                        network, images[chosen], labels[chosen], needed, norm=norm, verifier=verify
                    )
                add_to_records(replace(each, index=int(chosen[each.index])) for each in settled)
            if model.verifier not in NEVER_LOOSER:
                return never, torch.zeros_like(never, dtype=torch.bool)
            return never, margins(proof_radius(eps, norm, model.radius), coarse) > 0
        if not model.has_null:
            always = margins(radius)
            return always, always > 0
        bounds = coarse if verify is interval_bounds else verify
        always = margins(radius, bounds)
        never = not_fooled_margins(
            network,
            images,
            labels,
            radius,
            num_classes=model.num_classes,
            norm=norm,
            verifier=bounds,
        )
        return torch.maximum(never, always), always > 0

    return prover


def _is_open(margins: Tensor, radius: float, needed: float) -> Tensor:
    """Return whose margins ``(N,)`` within a radius leave open what holds within the one needed.

    A proof holds in every smaller ball, and no larger one is proved where there is none.
    """
    is_proved = margins > 0
    return is_proved & (needed > radius) | ~is_proved & (needed < radius)


def proof_radius(eps: float, norm: str, shift: float = 0.0) -> float:
    """Return the radius to prove for eps: eps + shift and the slack; at most 1 in L-infinity."""
    radius = max(0.0, eps + SLACK * max(1.0, eps) + shift)
    return min(radius, 1.0) if norm == "linf" else radius
