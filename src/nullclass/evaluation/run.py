"""Attacks a model, scores every image and looks for reasons to doubt the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor, nn

from nullclass.attacks import Attack, describe
from nullclass.attacks.base import with_reference_images
from nullclass.attacks.fmn import FMN
from nullclass.core.checks import check_choice, check_count, check_seed
from nullclass.core.devices import exact_float32
from nullclass.core.errors import UserError
from nullclass.core.progress import Stages
from nullclass.data import LabelledImages, tensors_or_loader
from nullclass.diagnostics.evidence import Evidence
from nullclass.diagnostics.probes import EXPECTED_IMAGES, ProbeLevel, probe
from nullclass.diagnostics.red_flags import find_flags
from nullclass.evaluation.plan import SMALLEST, Data, PlannedAttack, plan_attacks
from nullclass.evaluation.result import Evaluation
from nullclass.models.classifier import Classifier, as_classifier
from nullclass.rejection import Threshold, ThresholdedClassifier, overlap, with_threshold
from nullclass.results.schema import (
    CERTIFIED_COLUMNS,
    CLEAN,
    COST_COLUMNS,
    OOD_COLUMNS,
    ROW_COLUMNS,
    SELF,
    UNKNOWN,
    Access,
)
from nullclass.scoring.attacked import AttackResult, score_attack
from nullclass.scoring.batch_size import find_batch_size
from nullclass.scoring.ood import check_ood, make_ood, score_ood
from nullclass.scoring.proofs import prove
from nullclass.scoring.score import OnImages, check_labels, ignore, score_clean, sort_rows
from nullclass.scoring.smallest import score_smallest

NUM_OOD = 1000
"""Images per source of no class."""


@exact_float32()
def evaluate(
    model: nn.Module,
    data: Data,
    *,
    attacks: str | Sequence[str] | Mapping[str, Attack] = "worst-case",
    eps: float | Sequence[float] | Mapping[str, Sequence[float]],
    norm: str = "linf",
    num_images: int | Mapping[str, int] | None = None,
    num_classes: int | None = None,
    has_null: bool = True,
    source: nn.Module | None = None,
    threshold: Threshold | float | None = None,
    held_out: Data | None = None,
    ood: Sequence[str] | Mapping[str, Tensor] = (),
    num_smallest: int = 0,
    proofs: str | None = None,
    data_name: str | None = None,
    selected_on: str | None = None,
    num_examples: int = 0,
    batch_size: int | None = None,
    seed: int = 0,
    checks: ProbeLevel = "quick",
    progress: bool | OnImages = False,
) -> Evaluation:
    """Attack a model and score every image, clean and attacked.

    An iterative attack that succeeds at a smaller eps counts as successful at every larger eps,
    and is not repeated there.

    Args:
        model: A :class:`nullclass.Classifier`, or any module from images ``(N, C, H, W)`` in
            [0,1] to logits ``(N, K + 1)`` with null last; then pass ``num_classes``.
        data: The test images.
        attacks: Names of attacks, or attacks by the name they get in the rows.
        eps: Budgets in pixel units, for all attacks or by attack.
        norm: ``linf``, ``l2`` or ``l1``.
        num_images: How many of the first images are attacked, for all attacks or by attack.
            Default: all. The clean images are always all scored.
        num_classes: K, the number of real classes, for a module that is not a ``Classifier``.
        has_null: Whether the last of such a module's logits is null.
        source: A model to make the attacks on, for a transfer; its name in the rows is ``source``.
            A module that is not a ``Classifier`` may have K logits or K + 1, with null last.
        threshold: Answer null where the null score is larger (:mod:`nullclass.rejection`), best
            from ``calibrate`` on held-out images. The attacks know the threshold. Default: the
            largest logit decides.
        held_out: Clean images used neither in training nor here, for metrics whose threshold must
            not come from test data.
        ood: Images of no class: names in :data:`nullclass.scoring.ood.OOD`, or images by name.
        num_smallest: For how many of the first images to search the smallest eps that fools; slow.
        proofs: Name in :data:`nullclass.certify.verifiers.VERIFIERS`. Then every image is also
            verified at every eps (:mod:`nullclass.scoring.proofs`).
        data_name: Name of the dataset, for red flags that know its best published results.
        selected_on: ``test`` or ``held-out``: the images by which the weights were selected.
        num_examples: How many of the first adversarial images to keep for figures.
        batch_size: Images per forward and backward pass. Default: what fits into memory.
        seed: Seed of the attacks' random starts.
        checks: ``quick``: red flags from the rows and a few passes. ``full``: also repeats attacks
            with more effort, which can take longer than the evaluation. ``none``: no red flags.
        progress: True shows progress and the remaining time; a function receives the number of
            images scored since its last call.

    Returns:
        Rates, rows, costs and red flags; print it.

    Raises:
        UserError: If the images, labels, budgets, attacks or the model's outputs are invalid.
    """
    check_choice("checks", checks, get_args(ProbeLevel))
    check_seed(seed)
    check_count("num_examples", num_examples, 0)
    check_count("num_smallest", num_smallest, 0)
    if not (isinstance(progress, bool) or callable(progress)):
        raise UserError(f"progress must be True, False or a function, not {progress!r}")
    images = tensors_or_loader(data)
    plan = plan_attacks(attacks, eps, norm, num_images, images)
    for name in () if isinstance(ood, Mapping) else ood:
        check_ood(name)
    image = images.batch([0])[0]
    model = as_classifier(model, num_classes, image, has_null=has_null)
    if threshold is not None:
        model = with_threshold(model, threshold)
    attacked = None if source is None else as_classifier(source, num_classes, image)
    held = None if held_out is None else tensors_or_loader(held_out)
    for part in (images, held):
        if part is not None:
            check_labels(part, model)
    if batch_size is None:
        batch_size = find_batch_size(model, image)
    smallest = images.first(min(num_smallest, len(images))) if num_smallest else None
    settings: dict[str, Any] = {
        "norm": norm,
        "batch_size": check_count("batch_size", batch_size),
    }
    shown: dict[str, Any] = settings | {"num_examples": num_examples}
    certified = held_rows = None
    results: list[AttackResult] = []
    with _stages(progress, plan, images, held, num_smallest, checks) as stage:
        if proofs is not None:  # first: a layer without bounds is refused at once
            budgets = sorted({eps for planned in plan.values() for eps in planned.budgets})
            with stage("proofs") as on_images:
                certified = prove(
                    model, images, budgets, norm=norm, verifier=proofs, on_images=on_images
                )
        with stage("clean images") as on_images:
            clean = score_clean(model, images, **settings, on_images=on_images)
        for name, planned in plan.items():
            with stage(name) as on_images:
                result = score_attack(
                    model,
                    images,
                    torch.arange(planned.num_images),
                    name,
                    with_reference_images(planned.attack, images),
                    planned.budgets,
                    **shown,
                    source=attacked,
                    source_name=SELF if attacked is None else "source",
                    seed=seed,
                    on_images=on_images,
                )
            results.append(result)
        if smallest is not None:
            with stage(SMALLEST) as on_images:
                result = score_smallest(
                    model, smallest, SMALLEST, FMN(), **shown, on_images=on_images
                )
            results.append(result)
        if held is not None:
            with stage("held-out images") as on_images:
                held_rows = score_clean(model, held, **settings, on_images=on_images)
        with stage("checks") as on_images:
            return build_evaluation(
                model,
                images,
                clean,
                results,
                {name: p.attack for name, p in plan.items()} if attacked is None else {},
                {
                    "num_classes": model.num_classes,
                    "data": data_name,
                    "threshold": threshold_info(model, images),
                    "selected_on": selected_on,
                    **settings,
                },
                held_out=held_rows,
                ood=_score_ood(model, images, ood, seed, batch_size),
                certified=certified,
                checks=checks,
                seed=seed,
                on_images=on_images,
            )


def build_evaluation(
    model: Classifier,
    data: LabelledImages,
    clean: pd.DataFrame,
    results: Sequence[AttackResult],
    attacks: Mapping[str, Attack],
    info: dict[str, Any],
    *,
    held_out: pd.DataFrame | None = None,
    ood: pd.DataFrame | None = None,
    certified: pd.DataFrame | None = None,
    checks: ProbeLevel,
    seed: int,
    on_images: OnImages = ignore,
) -> Evaluation:
    """Assemble an evaluation: sorted rows, threat model, probes and red flags.

    Args:
        model: The evaluated model.
        data: The test images.
        clean: Rows of the clean test images.
        results: The scored attacks.
        attacks: The attacks that were made on the model itself, by name.
        info: Metadata for the threat model and the red flags: ``num_classes``, ``norm``, ``data``,
            ``threshold``, ``selected_on`` and, if known, ``batch_size``.
        held_out: Rows of clean held-out images.
        ood: Rows of images of no class.
        certified: Rows of proofs.
        checks: As for :func:`evaluate`.
        seed: Seed of the checks.
        on_images: Progress of the checks.

    Returns:
        The evaluation, with its red flags unless ``checks`` is ``none``.
    """
    rows = sort_rows([clean, *(result.rows for result in results)])
    costs = _join([result.costs for result in results], COST_COLUMNS)
    certified = _join([certified], CERTIFIED_COLUMNS)
    chosen = [name for name, a in attacks.items() if getattr(a, "targets", None) is not None]
    if chosen:
        info = info | {"chosen_targets": chosen}
    threat = threat_model(rows, costs, attacks, info)
    probes: dict[str, Any] = {}
    flags = []
    if checks != "none":
        evidence = Evidence(rows, costs, {"has_null": model.has_null}, info, certified)
        probes, probe_costs = probe(
            model,
            data,
            evidence,
            attacks,
            level=checks,
            seed=seed,
            batch_size=info.get("batch_size"),
            on_images=on_images,
        )
        flags = find_flags(replace(evidence, probes=probes))
        costs = _join([costs, probe_costs], COST_COLUMNS)
    return Evaluation(
        rows=rows,
        costs=costs,
        examples=[example for result in results for example in result.examples],
        held_out=_join([held_out], ROW_COLUMNS),
        ood=_join([ood], OOD_COLUMNS),
        certified=certified,
        threat=threat,
        probes=probes,
        flags=flags,
    )


def threat_model(
    rows: pd.DataFrame,
    costs: pd.DataFrame,
    attacks: Mapping[str, Attack],
    info: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the attacker wants, may change and knows, as JSON values."""
    described = {}
    for name, group in rows[rows["attack"] != CLEAN].groupby("attack", sort=False):
        access = set(costs.loc[costs["attack"] == name, "access"])
        is_given = not group["has_own_eps"].iloc[0]
        described[str(name)] = {
            "objective": group["objective"].iloc[0],
            "access": next((level for level in get_args(Access) if level in access), UNKNOWN),
            "source": group["source"].iloc[0],
            "eps": sorted(group["eps_pixels"].unique().tolist()) if is_given else None,
            "num_images": int(group["image"].nunique()),
            "settings": describe(attacks[str(name)]) if name in attacks else None,
        }
    return {"units": "pixels in [0,1]", **info, "attacks": described}


def threshold_info(model: Classifier, images: LabelledImages) -> dict[str, Any] | None:
    """Return a model's threshold and its origin, for the threat model and the red flags."""
    if not isinstance(model, ThresholdedClassifier):
        return None
    return model.threshold.to_dict() | {
        "origin": "held-out" if model.threshold.is_calibrated else UNKNOWN,
        "num_overlapping": overlap(model.threshold, images),
    }


def _score_ood(
    model: Classifier,
    data: LabelledImages,
    sources: Sequence[str] | Mapping[str, Tensor],
    seed: int,
    batch_size: int,
) -> pd.DataFrame:
    """Return rows of images of no class."""
    tables = []
    for name in sources:
        if isinstance(sources, Mapping):
            images = sources[name]
        else:
            generator = torch.Generator().manual_seed(seed)
            images = make_ood(name, data, min(NUM_OOD, len(data)), generator)
        tables.append(score_ood(model, images, name, batch_size=batch_size))
    return _join(tables, OOD_COLUMNS)


def _join(tables: Sequence[pd.DataFrame | None], columns: Mapping[str, str]) -> pd.DataFrame:
    """Return the tables as one; without any, an empty table of the columns."""
    filled = [table for table in tables if table is not None and len(table)]
    if not filled:
        return pd.DataFrame(columns=list(columns)).astype(dict(columns))
    return pd.concat(filled, ignore_index=True)


Stage = Callable[[str], AbstractContextManager[OnImages]]
"""From the name of a step to its progress callback."""


@contextmanager
def _stages(
    progress: bool | OnImages,
    plan: Mapping[str, PlannedAttack],
    images: LabelledImages,
    held_out: LabelledImages | None,
    num_smallest: int,
    checks: ProbeLevel,
) -> Iterator[Stage]:
    """Progress of the steps: bars or lines, the caller's function, or nothing."""
    if progress is not True:
        report = progress or ignore
        yield lambda name: nullcontext(report)
        return
    # By step, the number of images and a rough number of passes per image.
    steps = {
        "proofs": (len(images), 3),
        "clean images": (len(images), 1),
        "held-out images": (0 if held_out is None else len(held_out), 1),
        SMALLEST: (num_smallest, 400),
        "checks": (EXPECTED_IMAGES[checks], 100 if checks == "full" else 3),
    }
    for name, planned in plan.items():
        passes = 100 if planned.attack.is_iterative else 3
        steps[name] = (planned.num_images * len(planned.budgets), passes)
    costs = {name: num * passes for name, (num, passes) in steps.items()}
    with Stages("evaluation", sum(costs.values())) as stages:
        yield lambda name: stages.stage(name, units=max(steps[name][0], 1), cost=costs[name])
