"""Assembles an evaluation from scored rows: threat model, probes and red flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import pandas as pd

from nullclass.attacks import Attack, describe
from nullclass.attacks.ensemble import attacks_inside
from nullclass.data import LabelledImages
from nullclass.diagnostics.evidence import Evidence
from nullclass.diagnostics.probes import probe
from nullclass.diagnostics.red_flags import find_flags
from nullclass.evaluation.result import Evaluation
from nullclass.models.classifier import Classifier
from nullclass.rejection import ProvableNull, ThresholdedClassifier, overlap
from nullclass.results.info import ProofInfo
from nullclass.results.schema import (
    CERTIFIED_COLUMNS,
    CLEAN,
    COST_COLUMNS,
    OOD_COLUMNS,
    ROW_COLUMNS,
    UNKNOWN,
    Access,
)
from nullclass.scoring.attacked import AttackResult
from nullclass.scoring.parts import NOTHING, Parts
from nullclass.scoring.score import OnImages, ignore, sort_rows


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
    proved_eps: pd.DataFrame | None = None,
    checks: bool,
    seed: int,
    on_images: OnImages = ignore,
    parts: Parts = NOTHING,
) -> Evaluation:
    """Assemble an evaluation: sorted rows, threat model, probes and red flags.

    Args:
        model: The evaluated model.
        data: The test images.
        clean: Rows of the clean test images.
        results: The scored attacks.
        attacks: The attacks that were made on the model itself, by name.
        info: Metadata for the threat model and the red flags: ``num_classes``, ``norm``, ``data``,
            ``threshold``, ``proof``, ``selected_on`` and, if known, ``batch_size``.
        held_out: Rows of clean held-out images.
        ood: Rows of images of no class.
        certified: Rows of proofs.
        proved_eps: Rows of the largest eps proved.
        checks: Whether to look for red flags.
        seed: Seed of the checks.
        on_images: Progress of the checks.
        parts: Keeps the finished checks.

    Returns:
        The evaluation, with its red flags if ``checks``.
    """
    rows = sort_rows([clean, *(result.rows for result in results)])
    costs = join([result.costs for result in results], COST_COLUMNS)
    all_proofs = join([certified, proved_eps], CERTIFIED_COLUMNS)
    chosen = [name for name, attack in attacks.items() if has_chosen_targets(attack)]
    if chosen:
        info = info | {"chosen_targets": chosen}
    threat = threat_model(rows, costs, attacks, info)
    probes: dict[str, Any] = {}
    flags = []
    if checks:
        evidence = Evidence(rows, costs, {"has_null": model.has_null}, info, all_proofs)
        probes, probe_costs = probe(
            model,
            data,
            evidence,
            attacks,
            seed=seed,
            batch_size=info.get("batch_size"),
            on_images=on_images,
            parts=parts,
        )
        flags = find_flags(replace(evidence, probes=probes))
        costs = join([costs, probe_costs], COST_COLUMNS)
    return Evaluation(
        rows=rows,
        costs=costs,
        examples=[example for result in results for example in result.examples],
        held_out=join([held_out], ROW_COLUMNS),
        ood=join([ood], OOD_COLUMNS),
        certified=join([certified], CERTIFIED_COLUMNS),
        proved_eps=join([proved_eps], CERTIFIED_COLUMNS),
        threat=threat,
        probes=probes,
        flags=flags,
    )


def has_chosen_targets(attack: Attack) -> bool:
    """Return whether an attack, and all that it consists of, aims at targets of the user."""
    return all(getattr(each, "targets", None) is not None for each in attacks_inside(attack))


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


def proof_info(model: Classifier) -> dict[str, Any] | None:
    """Return within which radius, and by what, a model proves its answers, if it does."""
    if not isinstance(model, ProvableNull):
        return None
    return {name: getattr(model, name) for name in ProofInfo.__struct_fields__}


def threshold_info(model: Classifier, images: LabelledImages) -> dict[str, Any] | None:
    """Return a model's threshold and its origin, for the threat model and the red flags."""
    if not isinstance(model, ThresholdedClassifier):
        return None
    return model.threshold.to_dict() | {
        "origin": "held-out" if model.threshold.is_calibrated else UNKNOWN,
        "num_overlapping": overlap(model.threshold, images),
    }


def join(tables: Sequence[pd.DataFrame | None], columns: Mapping[str, str]) -> pd.DataFrame:
    """Return the tables as one; without any, an empty table of the columns."""
    filled = [table for table in tables if table is not None and len(table)]
    if not filled:
        return pd.DataFrame(columns=list(columns)).astype(dict(columns))
    return pd.concat(filled, ignore_index=True)
