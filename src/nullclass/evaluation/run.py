"""model x attacks x eps -> outcomes, rates, scores, and the reasons not to believe them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor, nn

from nullclass.attacks import Attack, describe, find_attack
from nullclass.attacks.base import UNKNOWN, Access, TakesReferenceImages, frozen
from nullclass.attacks.fmn import FMN
from nullclass.core.errors import UserError
from nullclass.core.norms import check_eps
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.diagnostics.probes import probe
from nullclass.diagnostics.red_flags import Evidence, find_flags
from nullclass.evaluation.result import Evaluation
from nullclass.metrics.rates import GIVEN, PROOF, SELF, UNION
from nullclass.models.classifier import Classifier
from nullclass.rejection import Threshold, overlap, with_threshold
from nullclass.results.schema import CERTIFIED_COLUMNS, COST_COLUMNS, OOD_COLUMNS, ROW_COLUMNS, Flag
from nullclass.scoring.ood import check_ood, make_ood, score_ood
from nullclass.scoring.proofs import prove
from nullclass.scoring.run_attack import (
    CLEAN,
    AttackResult,
    OnImages,
    check_labels,
    score_attack,
    score_clean,
    score_smallest,
)

Data = LabelledImages | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
"""Test images in [0,1] with labels: tensors, a loader, or :class:`LabelledImages`."""

Evaluation = Evaluation
"""The outcome of every image under every attack, and what follows from it."""

SMALLEST = "smallest-eps"
"""The name, in rows, of the search for each image's smallest eps."""


def evaluate(
    model: nn.Module,
    data: Data,
    *,
    attacks: str | Sequence[str] | Mapping[str, Attack] = "worst-case",
    eps: float | Sequence[float] | Mapping[str, Sequence[float]],
    norm: str = "linf",
    num_images: int | Mapping[str, int] | None = None,
    num_classes: int | None = None,
    source: nn.Module | None = None,
    threshold: Threshold | float | None = None,
    held_out: Data | None = None,
    ood: Sequence[str] | Mapping[str, Tensor] = (),
    num_smallest: int = 0,
    proofs: str | None = None,
    data_name: str | None = None,
    selected_on: str | None = None,
    num_examples: int = 0,
    seed: int = 0,
    checks: bool = True,
    on_images: OnImages | None = None,
) -> Evaluation:
    """Attack a model and score every image, clean and attacked.

    For an attack that searches the ball for one success, what succeeded at a smaller eps counts
    at every larger one and is not attacked again.

    Args:
        model: A :class:`Classifier`, or any module from [0,1] images ``(N, C, H, W)`` to logits
            with null last; then give ``num_classes``.
        data: The test images.
        attacks: Names of attacks, or attacks by the name they get in the rows.
        eps: Budgets in pixel units, for all attacks or by attack.
        norm: ``linf``, ``l2`` or ``l1``.
        num_images: How many of the first images are attacked, for all attacks or by attack; all
            unless said. The clean images are always all scored.
        num_classes: K, the number of real classes (without null), for a module that does not say.
        source: Another model to make the attacks on, to see how they transfer; the rows then say
            ``source_name`` source. Nothing is carried from a smaller eps to a larger one.
        threshold: Answer null where the null score is above it
        (:mod:`nullclass.rejection.threshold`), best
            from ``calibrate`` on held-out images; argmax decides unless given. The attacks know it.
        held_out: Clean images that are neither trained nor tested on, for metrics whose threshold
            must not come from test data.
        ood: Inputs of no class to show the model: names in :data:`nullclass.scoring.ood.OOD`, or
        images
            by the name they get.
        num_smallest: For how many of the first images the smallest eps that fools is looked for;
            a slow search, none unless said.
        proofs: Name in :data:`nullclass.certify.verifiers.VERIFIERS`: then it is also proved, of
            every image at every eps, that no attack can fool it (:mod:`nullclass.scoring.proofs`).
        data_name: Name of the dataset, for red flags that know a dataset's records.
        selected_on: ``test`` or ``held-out``: what the model's weights were picked on, if told.
        num_examples: How many of the first attacked images to keep for showing.
        seed: Seed of the attacks' random starts.
        checks: Whether the model is probed and red flags are looked for.
        on_images: Progress: called with the number of images just scored.

    Returns:
        Rows, costs, examples and red flags; ``summary()`` gives the rates, ``scores()`` the metrics
        of the null score.

    Raises:
        UserError: If images, labels, eps, attacks or the model's outputs make no sense.
    """
    named = find_attacks(attacks)
    for name in () if isinstance(ood, Mapping) else ood:
        check_ood(name)
    eps = (eps,) if isinstance(eps, int | float) else eps
    images = tensors_or_loader(data)
    classifier = as_classifier(model, num_classes, images.batch([0])[0])
    check_labels(images, classifier)
    plan = _budgets(named, eps, norm, images)
    counts = _counts(named, num_images, len(images))
    other = None if source is None else as_classifier(source, num_classes, images.batch([0])[0])
    if threshold is not None:
        classifier = with_threshold(classifier, threshold)
    told = on_images or (lambda _: None)
    certified = None
    if proofs is not None:  # first: it is quick, and tells at once what it cannot bound
        budgets = sorted({budget for budgets in plan.values() for budget in budgets})
        certified = prove(classifier, images, budgets, norm=norm, verifier=proofs)
    clean = score_clean(classifier, images, norm=norm, on_images=told)
    done: list[AttackResult] = []
    for name, attack in named.items():
        done.append(
            score_attack(
                classifier,
                images,
                torch.arange(counts[name]),
                name,
                attack.with_reference_images(images)
                if isinstance(attack, TakesReferenceImages)
                else attack,
                plan[name],
                norm=norm,
                source=other,
                source_name=SELF if other is None else "source",
                num_examples=num_examples,
                seed=seed,
                on_images=told,
            )
        )
    if num_smallest:
        few = images.first(min(num_smallest, len(images)))
        done.append(
            score_smallest(
                classifier,
                few,
                SMALLEST,
                FMN(),
                norm=norm,
                num_examples=num_examples,
                on_images=told,
            )
        )
    aside = pd.DataFrame(columns=list(ROW_COLUMNS))
    if held_out is not None:
        held = tensors_or_loader(held_out)
        check_labels(held, classifier)
        aside = score_clean(classifier, held, norm=norm, on_images=told)
    about = {
        "num_classes": classifier.num_classes,
        "norm": norm,
        "data": data_name,
        "threshold": threshold_info(threshold, images),
        "selected_on": selected_on,
    }
    return build_evaluation(
        classifier,
        images,
        clean,
        done,
        named if other is None else {},
        about,
        held_out=aside,
        ood=_ood(classifier, images, ood, seed),
        certified=certified,
        checks=checks,
        seed=seed,
    )


def build_evaluation(
    model: Classifier,
    data: LabelledImages,
    clean: pd.DataFrame,
    done: Sequence[AttackResult],
    attacks: Mapping[str, Attack],
    about: dict[str, Any],
    *,
    held_out: pd.DataFrame | None = None,
    ood: pd.DataFrame | None = None,
    certified: pd.DataFrame | None = None,
    checks: bool,
    seed: int,
) -> Evaluation:
    """Put an evaluation together: rows in order, threat model, probes, red flags.

    Args:
        model: The model that was scored.
        data: The test images.
        clean: Rows of the clean images.
        done: The attacks, scored.
        attacks: Those of them that were made on the model itself, by name.
        about: What the rows do not say: ``num_classes``, ``norm``, ``data``, ``threshold``,
            ``selected_on`` (:class:`nullclass.diagnostics.red_flags.Evidence`).
        held_out: Rows of clean held-out images, if there are any.
        ood: Rows of inputs of no class, if there are any.
        certified: What was proved, image by image, if anything was asked.
        checks: Whether the model is probed and red flags are looked for.
        seed: Seed of the probes' random starts.
    """
    rows = in_order([clean, *(scored.rows for scored in done)])
    tables = [scored.costs for scored in done]
    costs = pd.DataFrame(columns=list(COST_COLUMNS)).astype(COST_COLUMNS)
    if tables:
        costs = pd.concat(tables, ignore_index=True)
    if certified is None:
        certified = pd.DataFrame(columns=list(CERTIFIED_COLUMNS)).astype(CERTIFIED_COLUMNS)
    probes: dict[str, Any] = {}
    flags: list[Flag] = []
    if checks:
        probes = probe(model, data, rows, attacks, norm=about["norm"], seed=seed)
        flags = find_flags(Evidence(rows, costs, probes, about, certified))
    return Evaluation(
        rows=rows,
        costs=costs,
        examples=[example for scored in done for example in scored.examples],
        held_out=pd.DataFrame(columns=list(ROW_COLUMNS)) if held_out is None else held_out,
        ood=pd.DataFrame(columns=list(OOD_COLUMNS)) if ood is None else ood,
        certified=certified,
        threat=threat_model(rows, costs, attacks, about),
        probes=probes,
        flags=flags,
    )


def find_attacks(attacks: str | Sequence[str] | Mapping[str, Attack]) -> dict[str, Attack]:
    """Attacks by name, from names or as they are.

    Raises:
        UserError: If one is unknown, not an attack, or its name means something else in rows.
    """
    if isinstance(attacks, str):
        attacks = (attacks,)
    if isinstance(attacks, Sequence) and all(isinstance(name, str) for name in attacks):
        attacks = {name: find_attack(name) for name in attacks}
    if not isinstance(attacks, Mapping) or not all(map(_is_attack, attacks.values())):
        raise UserError(
            "attacks must be names, or a dictionary from names to attacks, as {'fgsm': FGSM()}"
        )
    taken = {CLEAN, UNION, PROOF, SMALLEST} & set(attacks)
    if taken:
        raise UserError(f"an attack cannot be called {min(taken)!r}: the rows mean something else")
    return dict(attacks)


def threat_model(
    rows: pd.DataFrame,
    costs: pd.DataFrame,
    attacks: Mapping[str, Attack],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """What the attacker wants, may do and knows, as JSON values.

    Args:
        rows: The evaluation's rows.
        costs: Its costs.
        attacks: Attacks by name, for their settings.
        about: As for :func:`build_evaluation`.
    """
    told = {}
    for name, group in rows[rows["attack"] != CLEAN].groupby("attack", sort=False):
        first, own = group.iloc[0], group["budget"].iloc[0] != GIVEN
        access = set(costs.loc[costs["attack"] == name, "access"])
        told[str(name)] = {
            "goal": first["objective"],
            "takes": next((need for need in get_args(Access) if need in access), UNKNOWN),
            "source": first["source"],
            "eps": None if own else sorted(group["eps_pixels"].unique().tolist()),
            "num_images": int(group["image"].nunique()),
            "settings": describe(attacks[str(name)]) if name in attacks else None,
        }
    return {
        "norm": about["norm"],
        "units": "pixels in [0,1]",
        "data": about["data"],
        "num_classes": about["num_classes"],
        "threshold": about["threshold"],
        "selected_on": about["selected_on"],
        "attacks": told,
    }


def in_order(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of rows as one, by attack, eps and image."""
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.sort_values(["attack", "eps_pixels", "image"], kind="stable", ignore_index=True)
    return rows[list(ROW_COLUMNS)]


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


def _budgets(
    attacks: Mapping[str, Attack],
    eps: Sequence[float] | Mapping[str, Sequence[float]],
    norm: str,
    images: LabelledImages,
) -> dict[str, list[float]]:
    """Budgets of every attack, rising."""
    _check_names(attacks, eps, "eps")
    plan = {name: sorted(set(eps[name] if isinstance(eps, Mapping) else eps)) for name in attacks}
    if not all(plan.values()):
        raise UserError("give at least one eps for every attack")
    for budget in (budget for budgets in plan.values() for budget in budgets):
        check_eps(budget, norm, images.images.shape)
    return plan


def _counts(
    attacks: Mapping[str, Attack], num_images: int | Mapping[str, int] | None, num_given: int
) -> dict[str, int]:
    """How many images every attack is made on."""
    _check_names(attacks, num_images, "num_images")
    counts = {}
    for name in attacks:
        wanted = num_images[name] if isinstance(num_images, Mapping) else num_images
        if wanted is not None and wanted < 1:
            raise UserError(f"num_images must be at least 1, not {wanted}; None attacks all images")
        counts[name] = num_given if wanted is None else min(wanted, num_given)
    return counts


def _check_names(attacks: Mapping[str, Attack], settings: object, what: str) -> None:
    lacking = set(attacks) - set(settings) if isinstance(settings, Mapping) else set()
    if lacking:
        raise UserError(f"{what} says nothing for the attack {min(lacking)!r}")


def threshold_info(
    threshold: Threshold | float | None, images: LabelledImages
) -> dict[str, Any] | None:
    """Where a threshold comes from, for the threat model and the red flags."""
    if threshold is None:
        return None
    if not isinstance(threshold, Threshold):
        threshold = Threshold(float(threshold))
    if not threshold.is_calibrated:
        return threshold.to_dict() | {"origin": UNKNOWN, "num_overlapping": 0}
    return threshold.to_dict() | {
        "origin": "held-out",
        "num_overlapping": overlap(threshold, images),
    }


def _ood(
    model: Classifier,
    data: LabelledImages,
    sources: Sequence[str] | Mapping[str, Tensor],
    seed: int,
) -> pd.DataFrame:
    """Rows of inputs of no class."""
    tables = []
    for name in sources:
        if isinstance(sources, Mapping):
            images = sources[name]
        else:
            generator = torch.Generator().manual_seed(seed)
            images = make_ood(name, data, min(NUM_OOD, len(data)), generator)
        tables.append(score_ood(model, images, name))
    return (
        pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(OOD_COLUMNS))
    )


NUM_OOD = 1000
"""Inputs of each source of no class."""
