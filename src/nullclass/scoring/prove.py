"""What is proved about a classifier's answers within eps, image by image.

Kinds of classifier, and what is asked of the verifier for each:

- :class:`~nullclass.rejection.provable.ProvableNull` of radius r: never fooled within eps if the
  model inside is proved to say y within eps - r of the image (the claim there); always right if
  interval bounds prove it within eps + r, since those of a ball inside a ball are never looser.
- A learned null class: never fooled by mixes of ``z_y`` and ``z_null``
  (:mod:`nullclass.certify.learned_null`); always right if y beats every logit, null's too.
- No null: never fooled is always right, and the share is the certified accuracy.

:class:`~nullclass.rejection.smoothing.SmoothedNull` is refused: what it says holds with a
confidence,
and a row here is a proof.

Robust accuracy with rejection (RAR) is proved where an image is right when clean and never fooled.
A proof at eps is one at ``eps + 1e-6``, what the evaluation forgives an attack for rounding: so an
attack that breaks one (red flag ``proof-broken``) shows a mistake, not a rounding. The rounding of
the model's own logits: a ``ProvableNull`` answers by bounds, which have margins for it; of a
learned null the rows of ``interval`` prove the model as it computes (:data:`COARSER`), those of
``crown-ibp`` its logits as real numbers, so that a tie within their rounding is not covered.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nullclass.attacks.base import frozen
from nullclass.certify.interval import lower_bounds, reach
from nullclass.certify.learned_null import not_fooled_margins
from nullclass.certify.margins import margins, spec_of_labels
from nullclass.certify.network import Network, check_reading, read_network
from nullclass.certify.regions import check_radius, check_range, region_around
from nullclass.certify.rounding import Rounding, proof_dtype, rounding_for
from nullclass.certify.verifiers import VERIFIERS, Verifier, find_verifier
from nullclass.core.errors import UserError
from nullclass.core.norms import check_eps
from nullclass.core.outcomes import predictions
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.models.classifier import Classifier
from nullclass.rejection.provable import ProvableNull, check_shape
from nullclass.rejection.smoothing import SmoothedNull
from nullclass.rejection.threshold import Thresholded
from nullclass.results.schema import CERTIFIED_COLUMNS
from nullclass.scoring.run_attack import check_labels

BATCH_SIZE = 128
"""Images proved at once; more are slower on a CPU, whose cache no longer holds their boxes."""

SLACK = 1e-6
"""How much further than eps every proof reaches, as a share of the larger of 1 and eps."""

COARSER = 8
"""How much coarser than the model's own rounding that of :func:`_surely_above` is: with a factor
of 4 the box of every layer holds all boxes, margins included, that the model itself computes for an
image of the ball; and so all logits, rounded as they are."""

NEVER_LOOSER = ("interval", "crown-ibp")
"""Verifiers whose bounds are never below those of ``interval``."""

STATUS = ("correct", "not-fooled", "undecided")
"""What can be said of an image: always right, never fooled, or neither is proved."""

Data = LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
OnImages = Callable[[int], None]


def certify(
    model: Classifier,
    data: Data,
    eps: float | Sequence[float],
    *,
    norm: str = "linf",
    verifier: str = "interval",
    num_images: int | None = None,
    on_images: OnImages | None = None,
) -> pd.DataFrame:
    """Prove, image by image, that a classifier with null cannot be fooled within eps.

    Args:
        model: With a learned null class, or a ``ProvableNull``.
        data: Images in [0,1] with labels.
        eps: Budgets in pixel units.
        norm: ``linf`` or ``l2``; of a ``ProvableNull`` its own.
        verifier: Name in :data:`nullclass.certify.verifiers.VERIFIERS`.
        num_images: How many of the first images; all unless given.
        on_images: Progress: called with the number of images just dealt with.

    Returns:
        A row an image and eps, :data:`nullclass.results.schema.CERTIFIED_COLUMNS`; ``margin`` is
        the lower
        bound that decides ``is_never_fooled``, positive if it is proved. Rates of them:
        :func:`nullclass.metrics.rates.proved_rates`.

    Raises:
        UserError: If the model has no null or cannot be bounded, or eps, norm, verifier, images or
            labels make no sense.
    """
    if not model.has_null:
        raise UserError(
            "the model has no null (K logits), so it cannot be certified as one that refuses: wrap "
            "it as ProvableNull(model, radius), or ask for its certified_accuracy"
        )
    return proof_rows(
        model,
        data,
        eps,
        norm=norm,
        verifier=verifier,
        num_images=num_images,
        on_images=on_images,
    )


def certified_accuracy(
    model: Classifier,
    data: Data,
    eps: float | Sequence[float],
    *,
    norm: str = "linf",
    verifier: str = "interval",
    num_images: int | None = None,
    on_images: OnImages | None = None,
) -> pd.DataFrame:
    """Prove, image by image, that a classifier without null says the true label within eps.

    Args:
        model: K logits, no null.
        data: As for :func:`certify`; so are the others.
        eps: Budgets in pixel units.
        norm: ``linf`` or ``l2``.
        verifier: Name of the verifier.
        num_images: How many of the first images.
        on_images: Progress.

    Returns:
        Columns image, label, norm, eps_pixels, verifier, margin, is_proved; the mean of the last is
        the certified accuracy.

    Raises:
        UserError: If the model has null, or as :func:`certify`.
    """
    if model.has_null:
        raise UserError(
            "certified accuracy is of a classifier that always answers (K logits), and this one "
            "may say null: use certify"
        )
    rows = proof_rows(
        model,
        data,
        eps,
        norm=norm,
        verifier=verifier,
        num_images=num_images,
        on_images=on_images,
    )
    rows = rows.rename(columns={"is_never_fooled": "is_proved"})
    return rows[["image", "label", "norm", "eps_pixels", "verifier", "margin", "is_proved"]]


def proof_rows(
    model: Classifier,
    data: Data,
    eps: float | Sequence[float],
    *,
    norm: str = "linf",
    verifier: str = "interval",
    num_images: int | None = None,
    on_images: OnImages | None = None,
) -> pd.DataFrame:
    """As :func:`certify`, of a classifier with or without null."""
    given = [eps] if isinstance(eps, int | float | np.number) else eps
    budgets = sorted({float(each) for each in given})
    if not budgets:
        raise UserError("give at least one eps to prove something at")
    check_radius(0, norm)
    images = tensors_or_loader(data)
    if num_images is not None:
        images = images.first(min(num_images, len(images)))
    for budget in budgets:
        check_eps(budget, norm, images.images.shape)
    check_labels(images, model)
    check_shape(model, images.images[:1])
    asked = _asked(model, norm, find_verifier(verifier), images.images.shape[1:])
    tables = []
    with frozen(model), torch.no_grad():
        for indices in torch.arange(len(images)).split(BATCH_SIZE):
            batch, labels = images.batch(indices)
            check_range(batch)
            batch, labels = batch.to(model.mean.device), labels.to(model.mean.device)
            predicted = predictions(model(batch), model.num_classes)
            proofs = asked.proofs(batch, labels)
            for budget in budgets:
                never, always = proofs(budget)
                tables.append(
                    pd.DataFrame(
                        {
                            "image": indices.numpy(),
                            "label": labels.cpu().numpy(),
                            "norm": norm,
                            "eps_pixels": budget,
                            "verifier": verifier,
                            "prediction": predicted.cpu().numpy(),
                            "margin": never.double().cpu().numpy(),
                            "is_correct_proved": always.cpu().numpy(),
                            "is_rar_proved": ((never > 0) & (predicted == labels)).cpu().numpy(),
                            "is_never_fooled": (never > 0).cpu().numpy(),
                        }
                    )
                )
            if on_images is not None:
                on_images(len(indices))
    rows = pd.concat(tables, ignore_index=True)
    correct, not_fooled, undecided = STATUS
    rows["status"] = undecided
    rows.loc[rows["is_never_fooled"], "status"] = not_fooled
    rows.loc[rows["is_correct_proved"], "status"] = correct
    rows = rows.sort_values(["eps_pixels", "image"], kind="stable", ignore_index=True)
    return rows[list(CERTIFIED_COLUMNS)].astype(CERTIFIED_COLUMNS)


Proofs = Callable[[float], tuple[Tensor, Tensor]]
"""From eps to margins ``(N,)`` of never fooled, and booleans ``(N,)`` of always right."""


@dataclass(frozen=True)
class _Asked:
    """A classifier without null, or with a learned one."""

    network: Network
    num_classes: int
    norm: str
    verifier: Verifier
    dtype: torch.dtype

    def proofs(self, images: Tensor, labels: Tensor) -> Proofs:
        images = images.to(self.dtype)
        has_null = self.network.num_logits > self.num_classes

        def at(eps: float) -> tuple[Tensor, Tensor]:
            reach_of = _reach(eps, self.norm)
            is_interval = self.verifier is VERIFIERS["interval"]
            if has_null and is_interval:
                always = _surely_above(self.network, images, labels, reach_of, self.norm)
            else:
                always = margins(
                    self.network, images, labels, reach_of, norm=self.norm, verifier=self.verifier
                )
            if not has_null:
                return always, always > 0
            never = not_fooled_margins(
                self.network,
                images,
                labels,
                reach_of,
                num_classes=self.num_classes,
                norm=self.norm,
                verifier=self.verifier,
                rounding=_coarser(images) if is_interval else None,
            )
            return torch.maximum(never, always), always > 0

        return at


@dataclass(frozen=True)
class _AskedInside(_Asked):
    """What is inside a ``ProvableNull``."""

    radius: float
    is_monotone: bool
    """Whether its own verifier proves at least what interval bounds do."""

    def proofs(self, images: Tensor, labels: Tensor) -> Proofs:
        images = images.to(self.dtype)
        known: dict[float, Tensor] = {}

        def at(eps: float) -> tuple[Tensor, Tensor]:
            within = _reach(eps, self.norm, -self.radius)
            if within not in known:
                known[within] = margins(
                    self.network, images, labels, within, norm=self.norm, verifier=self.verifier
                )
            always = torch.zeros_like(known[within], dtype=torch.bool)
            if self.is_monotone:
                beyond = _reach(eps, self.norm, self.radius)
                always = _surely_above(self.network, images, labels, beyond, self.norm) > 0
            return known[within], always

        return at


def _asked(model: Classifier, norm: str, verifier: Verifier, image_shape: Sequence[int]) -> _Asked:
    if isinstance(model, SmoothedNull):
        raise UserError(
            "randomised smoothing proves nothing, it certifies with a confidence: ask for "
            "model.certificates(images), each of which tells its own"
        )
    if isinstance(model.body, Thresholded):
        raise UserError(
            "nothing is proved of a model that refuses by a threshold: certify it as it answers by "
            "its largest logit"
        )
    if isinstance(model, ProvableNull) and model.norm != norm:
        raise UserError(
            f"the model proves its answers in {model.norm}, so nothing follows for {norm}: prove "
            f"in {model.norm}"
        )
    inner = model.model if isinstance(model, ProvableNull) else model
    network = read_network(_evaluating(inner))
    if inner.image_shape is None:
        check_reading(network, inner, image_shape)
    own = next(inner.parameters(), inner.mean)
    dtype = proof_dtype(own.device, own.dtype)
    if dtype != own.dtype:
        network = network.to(dtype)
    if not isinstance(model, ProvableNull):
        return _Asked(network, model.num_classes, norm, verifier, dtype)
    return _AskedInside(
        network,
        model.num_classes,
        norm,
        verifier,
        dtype,
        model.radius,
        model.verifier in NEVER_LOOSER,
    )


def _evaluating(model: Classifier) -> Classifier:
    """The model itself if it is in evaluation mode, else a copy that is."""
    return copy.deepcopy(model).eval() if model.training else model


def _reach(eps: float, norm: str, more: float = 0.0) -> float:
    """How far to prove for eps: a little more, and in L∞ never further than the box is wide."""
    wanted = max(0.0, eps + SLACK * max(1.0, eps) + more)
    return min(wanted, 1.0) if norm == "linf" else wanted


def _coarser(images: Tensor) -> Rounding:
    own = rounding_for(images)
    return Rounding(COARSER * own.unit, own.tiny)


def _surely_above(
    network: Network, images: Tensor, labels: Tensor, radius: float, norm: str
) -> Tensor:
    """Interval margins of the labels, with roundings coarser than the model's own."""
    rounding = _coarser(images)
    reached = reach(network, region_around(images, radius, norm, rounding), rounding)
    spec = spec_of_labels(labels, network.num_logits, images.dtype)
    return lower_bounds(reached, spec, rounding).amin(dim=1)
