"""Attacks some models and scores the adversarial images on others, as a matrix.

    transfer rate = P(f_target(x') is fooled | f_source(x') is fooled, f_target(x) = y)

The adversarial image x' is made on the source alone. Transfer of adversarial images was first
measured by Szegedy et al. 2014, "Intriguing properties of neural networks" (section 4.2), and as a
matrix of models by Papernot et al. 2016, "Transferability in machine learning". Here null is an
outcome of its own: a target that answers null is not fooled.

An attack that stops at its first success ends just behind the *source's* decision boundary, which
says little about other models. So every eps is attacked from scratch, and the default attack is
MI-FGSM, which never stops early.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from nullclass.attacks import MIFGSM, Attack, find_attack
from nullclass.core.checks import check_seed
from nullclass.core.errors import UserError
from nullclass.core.outcomes import OUTCOME_NAMES
from nullclass.data import tensors_or_loader
from nullclass.evaluation.plan import Data, find_attacks, find_budgets
from nullclass.metrics.rates import wilson
from nullclass.models.classifier import NUM_TRIED, as_classifier
from nullclass.models.network import Body
from nullclass.scoring.crafted import craft, score_crafted
from nullclass.scoring.score import check_labels, score_clean


def transfer_matrix(
    sources: Mapping[str, Body],
    targets: Mapping[str, Body],
    data: Data,
    *,
    attack: str | Attack | None = None,
    eps: float | Sequence[float],
    norm: str = "linf",
    num_images: int | None = None,
    num_classes: int | None = None,
    has_null: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Attack every source once and score the adversarial images on every target.

    Where source and target are the same model, the row is that model's white-box result.

    Args:
        sources: Models to attack, by name: :class:`nullclass.Classifier`, or modules or functions
            from images in [0,1] to logits with null last.
        targets: Models to score, likewise.
        data: The test images and labels.
        attack: An attack with the objective ``fool``, so that null counts as a defence of the
            source; or a name, which gets that objective. Default: MI-FGSM.
        eps: Budgets in pixel units.
        norm: ``linf``, ``l2`` or ``l1``.
        num_images: How many of the first images to attack. Default: all.
        num_classes: K, for models that are not a ``Classifier``.
        has_null: Whether the last logit of such models is null. If they differ, wrap them:
            ``Classifier(network, num_classes, has_null=False)``.
        seed: Seed of the attack's random starts.

    Returns:
        One row per source, target and eps: columns source, target, eps_pixels and those of
        :func:`transfer_rates`.

    Raises:
        UserError: If there is no source or no target, models differ in their classes, there are
            fewer images, a budget is out of range, or the attack has another objective.
    """
    if not all(isinstance(models, Mapping) and models for models in (sources, targets)):
        raise UserError("give at least one source and one target, in dictionaries by name")
    check_seed(seed)
    images = tensors_or_loader(data)
    num_images = len(images) if num_images is None else num_images
    attacked_images = images.first(num_images)
    budgets = find_budgets(eps, norm, images)
    attack = _fooling(attack)
    few = images.batch(slice(0, NUM_TRIED))[0]
    source_models, target_models = (
        {
            name: as_classifier(model, num_classes, few, has_null=has_null)
            for name, model in models.items()
        }
        for models in (sources, targets)
    )
    for source_name, source in source_models.items():
        for name, target in target_models.items():
            if source.num_classes != target.num_classes:
                raise UserError(
                    f"the source {source_name!r} has {source.num_classes} classes, but the target "
                    f"{name!r} has {target.num_classes}: give models of the same classes"
                )
    clean = {}
    for name, target in target_models.items():
        check_labels(attacked_images, target)
        clean[name] = score_clean(target, attacked_images, norm=norm)
    lines: list[dict[str, Any]] = []
    for source_name, source in source_models.items():
        crafted = craft(
            source, images, attack, budgets, norm=norm, num_images=num_images, seed=seed
        )
        for name, target in target_models.items():
            result = score_crafted(
                target, images, crafted, name="transfer", source_name=source_name
            )
            for eps in budgets:
                on_source, on_target = (
                    rows[rows["eps_pixels"] == eps] for rows in (crafted.rows, result.rows)
                )
                keys = {"source": source_name, "target": name, "eps_pixels": eps}
                lines.append(keys | transfer_rates(on_source, on_target, clean[name]))
    return pd.DataFrame(lines)


def transfer_rates(
    on_source: pd.DataFrame, on_target: pd.DataFrame, clean: pd.DataFrame
) -> dict[str, Any]:
    """Return the rates of one source, target and eps.

    Args:
        on_source: The source's rows of the adversarial images.
        on_target: The target's rows of the same images.
        clean: The target's rows of the clean images.

    Returns:
        ``correct_rate``, ``null_rate``, ``fooled_rate``: rates of the target's outcomes, with
        the 95 % Wilson interval ``low``, ``high`` of fooled and ``num_images``;
        ``transfer_rate``: among the ``num_transferable`` images that fool the source and that the
        target classifies correctly when clean, the share that fools the target; NaN if there are
        none.
    """
    target, source, before = (
        rows.set_index("image")["outcome"] for rows in (on_target, on_source, clean)
    )
    num_fooled = int((target == "fooled").sum())
    low, high = wilson(num_fooled, len(target))
    is_transferable = (source.reindex(target.index) == "fooled") & (
        before.reindex(target.index) == "correct"
    )
    num_transferable = int(is_transferable.sum())
    num_transferred = int((is_transferable & (target == "fooled")).sum())
    return {f"{outcome}_rate": float((target == outcome).mean()) for outcome in OUTCOME_NAMES} | {
        "low": low,
        "high": high,
        "num_images": len(target),
        "transfer_rate": num_transferred / num_transferable if num_transferable else math.nan,
        "num_transferable": num_transferable,
    }


def _fooling(attack: str | Attack | None) -> Attack:
    """Return the attack, with the objective ``fool``."""
    chosen: Any = MIFGSM() if attack is None else attack
    if isinstance(chosen, str):
        chosen = find_attack(chosen)
        if "objective" in vars(chosen):  # an ensemble has the objective of its members
            chosen = replace(chosen, objective="fool")
    (fooling,) = find_attacks({"transfer": chosen}).values()
    if fooling.objective != "fool":
        raise UserError(
            f"the attack's objective {fooling.objective} counts a source's null as a success: pass "
            "an attack with the objective fool"
        )
    return fooling
