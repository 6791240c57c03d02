"""An evaluation that nobody made: what becomes of each image is drawn, the rest follows from that.

``python tests/report/fake_evaluation.py DIR`` writes one to look at.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fake_run import digit

from nullclass.core.files import write_json
from nullclass.evaluation.result import Evaluation
from nullclass.results import schema, store
from nullclass.results.schema import Flag

MEMBERS = ("margin", "targets", "square")
"""Members of the made-up ensembles; the last one never fells anything."""

FLAGS = (
    Flag("zero-gradients", "The gradient of the margin is exactly zero on 31 of 64 images."),
    Flag("null-on-clean", "The model refuses 9 of 120 clean images (7.5 %)."),
)


@dataclass(frozen=True)
class World:
    """Images, and the eps at which each falls; infinite if it never does."""

    labels: np.ndarray
    answers: np.ndarray
    """To the clean images."""
    fooled_at: np.ndarray
    null_at: np.ndarray
    member: np.ndarray = field(repr=False)
    """Place in :data:`MEMBERS` of who would fell it."""


def write_fake_evaluation(
    folder: Path,
    *,
    num_images: int = 120,
    num_classes: int = 10,
    has_null: bool = True,
    eps: Sequence[float] = (0.05, 0.1, 0.2, 0.3),
    attacks: Sequence[str] = ("fgsm", "worst-case", "worst-case-force-null"),
    ood: Sequence[str] = ("noise", "blank", "tiles"),
    num_held_out: int = 50,
    num_smallest: int = 40,
    flags: Sequence[Flag] = (),
    is_checked: bool = True,
    threshold: dict[str, Any] | None = None,
    norm: str = "linf",
    name: str = "made-up",
    proved: Sequence[float] = (),
) -> Path:
    """Write a run folder as ``nullclass evaluate`` does; the same arguments give the same run."""
    rng = np.random.default_rng(5)
    world = _world(num_images, num_classes, has_null, rng)
    rows = [_rows(world, "clean", "clean", 0.0, has_null, norm, rng)]
    costs, examples = [], []
    objectives = {"fgsm": "untargeted", "worst-case": "fool", "worst-case-force-null": "force-null"}
    for attack in attacks:
        for budget in eps:
            table = _rows(world, attack, objectives[attack], budget, has_null, norm, rng)
            rows.append(table)
            examples.append(_examples(table, world, norm, budget, rng))
        costs += _costs(rows[-len(eps) :], rows[0], eps)
    if num_smallest:
        table = _smallest(world, num_smallest, has_null, norm, rng)
        rows.append(table)
        costs.append(_cost(table, "smallest-eps", num_smallest, math.nan, 800, 400))
        first = np.argsort(table["eps_pixels"], kind="stable")[:8]
        examples.append(_examples(table.iloc[first], world, norm, math.nan, rng))
    spare = _world(max(num_held_out, 1), num_classes, has_null, rng)
    held_out = _rows(spare, "clean", "clean", 0.0, has_null, norm, rng).head(num_held_out)
    findings = Evaluation(
        rows=pd.concat(rows, ignore_index=True),
        costs=pd.DataFrame(costs, columns=list(schema.COST_COLUMNS)),
        examples=examples,
        held_out=held_out,
        ood=_outside(ood, num_images, has_null, rng),
        threat=_threat(attacks, objectives, eps, num_images, num_classes, norm, threshold),
        probes={"has_null": has_null} if is_checked else {},
        flags=list(flags),
        certified=_certified(world, proved, norm),
    )
    told = {"model": name, "seed": 0}
    findings.write(store.trial_folder(folder, name, 0), told)
    store.write_summary(folder, "evaluate")
    write_json(
        folder / schema.RUN,
        {
            "study": "evaluate",
            "models": [name],
            "seeds": [0],
            "settings": {
                "attacks": [{"attack": a, "eps": list(eps), "settings": {}} for a in attacks],
                "card": {"architecture": "small"},
            },
            "data": {"name": "made up", "num_test_images": num_images},
            "started": "2030-01-02T03:04:05+00:00",
        },
    )
    return folder


def _certified(world: World, eps: Sequence[float], norm: str) -> pd.DataFrame:
    """Most of what is true of the images, proved."""
    tables = []
    for each in eps:
        never = world.fooled_at > 1.2 * each
        is_right = world.answers == world.labels
        always = never & is_right & (world.null_at > 1.5 * each)
        tables.append(
            pd.DataFrame(
                {
                    "image": np.arange(len(world.labels)),
                    "label": world.labels,
                    "norm": norm,
                    "eps_pixels": each,
                    "verifier": "interval",
                    "prediction": world.answers,
                    "margin": np.where(never, 1.0, -1.0),
                    "is_correct_proved": always,
                    "is_rar_proved": never & is_right,
                    "is_never_fooled": never,
                    "status": np.where(
                        always, "correct", np.where(never, "not-fooled", "undecided")
                    ),
                }
            )
        )
    columns = list(schema.CERTIFIED_COLUMNS)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _world(num_images: int, num_classes: int, has_null: bool, rng: np.random.Generator) -> World:
    labels = rng.integers(0, num_classes, num_images)
    kinds = rng.choice(3, num_images, p=[0.9, 0.04 * has_null, 0.1 - 0.04 * has_null])
    other = (labels + rng.integers(1, num_classes, num_images)) % num_classes
    fooled_at = np.where(kinds == 2, 0.0, rng.gamma(4, 0.06, num_images))
    fooled_at[rng.random(num_images) < 0.15] = math.inf
    fooled_at[kinds == 2] = 0.0
    null_at = np.where(kinds == 1, 0.0, rng.gamma(4, 0.05, num_images))
    if not has_null:
        null_at[:] = math.inf
    answers = np.choose(kinds, [labels, np.full(num_images, -1), other])
    member = rng.choice(2, num_images, p=[0.7, 0.3])
    return World(labels, answers, fooled_at, null_at, member)


def _rows(
    world: World,
    attack: str,
    objective: str,
    eps: float,
    has_null: bool,
    norm: str,
    rng: np.random.Generator,
) -> pd.DataFrame:
    num = len(world.labels)
    wrong = (world.labels + 1 + np.arange(num) % (_num_classes(world) - 1)) % _num_classes(world)
    predicted, member = (
        world.answers.copy(),
        np.full(num, "clean" if attack == "clean" else "no-success", dtype=object),
    )
    if objective in ("fool", "untargeted"):
        weak = 1.0 if objective == "fool" else 1.6  # one step gets less far
        falls = weak * world.fooled_at <= eps
        predicted[falls & (world.answers == world.labels)] = wrong[
            falls & (world.answers == world.labels)
        ]
        if objective == "untargeted":
            refused = ~falls & (world.null_at * 2 <= eps)
            predicted[refused] = -1
        else:
            fell = falls & (world.fooled_at > 0)
            member[fell] = np.array(MEMBERS, dtype=object)[world.member[fell]]
    if objective == "force-null":
        falls = world.null_at <= eps
        predicted[falls] = -1
        fell = falls & (world.null_at > 0)
        member[fell] = np.array(MEMBERS, dtype=object)[world.member[fell]]
    return _table(world, predicted, attack, objective, False, eps, member, has_null, norm, rng)


def _num_classes(world: World) -> int:
    return max(2, int(world.labels.max()) + 1)


def _table(
    world: World,
    predicted: np.ndarray,
    attack: str,
    objective: str,
    has_own_eps: bool,
    eps: float | np.ndarray,
    member: np.ndarray,
    has_null: bool,
    norm: str,
    rng: np.random.Generator,
) -> pd.DataFrame:
    num, labels = len(predicted), world.labels[: len(predicted)]
    outcome = np.where(predicted == labels, "correct", np.where(predicted < 0, "null", "fooled"))
    sure = rng.exponential(6, num)
    score = np.where(predicted < 0, sure, -sure) if has_null else np.exp(-sure)
    return pd.DataFrame(
        {
            "image": np.arange(num),
            "label": labels,
            "attack": attack,
            "objective": objective,
            "source": "clean" if attack == "clean" else "self",
            "norm": norm,
            "has_own_eps": has_own_eps,
            "eps_pixels": eps,
            "member": member,
            "prediction": predicted,
            "outcome": outcome,
            "confidence": rng.uniform(0.5, 1, num),
            "loss": rng.exponential(1, num),
            "null_loss": rng.exponential(5, num) if has_null else math.nan,
            "real_prediction": np.where(predicted < 0, labels, predicted),
            "null_score": score,
        }
    )


def _smallest(
    world: World, num: int, has_null: bool, norm: str, rng: np.random.Generator
) -> pd.DataFrame:
    sizes = world.fooled_at[:num]
    found = np.isfinite(sizes)
    wrong = (world.labels[:num] + 1) % _num_classes(world)
    predicted = np.where(found, np.where(sizes > 0, wrong, world.answers[:num]), world.labels[:num])
    member = np.where(found, "smallest-eps", "no-success").astype(object)
    eps = np.where(found, sizes, 1.0)
    return _table(world, predicted, "smallest-eps", "fool", True, eps, member, has_null, norm, rng)


def _costs(
    tables: Sequence[pd.DataFrame], clean: pd.DataFrame, eps: Sequence[float]
) -> list[dict[str, Any]]:
    """One line a member and eps, counted from who fell when."""
    attack, objective = tables[0]["attack"].iloc[0], tables[0]["objective"].iloc[0]
    if objective == "untargeted":
        return [
            _cost(table, "fgsm", len(table), budget, len(table), len(table))
            for table, budget in zip(tables, eps, strict=True)
        ]
    aim = "fooled" if objective == "fool" else "null"
    lines, done = [], set(clean.loc[clean["outcome"] == aim, "image"])
    for table, budget in zip(tables, eps, strict=True):
        fallen = table[(table["outcome"] == aim) & ~table["image"].isin(done)]
        given = len(table) - len(done)
        for place, member in enumerate(MEMBERS):
            felled = int((fallen["member"] == member).sum())
            line = _cost(table, member, given, budget, given * (place + 1) * 20, given * 20)
            lines.append(line | {"num_successes": felled})
            given -= felled
        done |= set(fallen["image"])
    assert attack.startswith("worst-case")
    return lines


def _cost(
    table: pd.DataFrame, member: str, given: int, eps: float, forward: int, backward: int
) -> dict[str, Any]:
    first = table.iloc[0]
    return {
        "attack": first["attack"],
        "objective": first["objective"],
        "source": "self",
        "norm": first["norm"],
        "eps_pixels": eps,
        "access": "white-box",
        "is_iterative": first["attack"] != "fgsm",
        "member": member,
        "num_images": given,
        "num_successes": int((table["outcome"] == "fooled").sum()),
        "num_forwards": forward,
        "num_backwards": backward,
        "seconds": forward / 500,
    }


def _outside(
    sources: Sequence[str], num: int, has_null: bool, rng: np.random.Generator
) -> pd.DataFrame:
    tables = [pd.DataFrame(columns=list(schema.OOD_COLUMNS))]
    for place, source in enumerate(sources):
        score = rng.normal(3 - 2 * place, 3, num)
        tables.append(
            pd.DataFrame(
                {
                    "source": source,
                    "image": np.arange(num),
                    "prediction": np.where((score > 0) & has_null, -1, 1),
                    "real_prediction": 1,
                    "confidence": 0.8,
                    "null_score": score if has_null else np.exp(-abs(score)),
                }
            )
        )
    return pd.concat(tables[1:], ignore_index=True) if sources else tables[0]


def _examples(
    table: pd.DataFrame, world: World, norm: str, eps: float, rng: np.random.Generator
) -> schema.Examples:
    shown = table.head(8)
    places = shown["image"].to_numpy()
    clean = np.stack([digit(int(label) % 10, rng) for label in shown["label"]])
    budgets = [float(size) for size in shown["eps_pixels"]]
    sign = np.sign(rng.normal(size=clean.shape)).astype(np.float32)
    step = np.array(budgets, np.float32)[:, None, None, None]
    return schema.Examples(
        attack=str(table["attack"].iloc[0]),
        norm=norm,
        eps_pixels=eps,
        budgets=budgets,
        labels=[int(label) for label in shown["label"]],
        clean_predictions=[int(answer) for answer in world.answers[places]],
        clean_confidences=[0.9] * len(shown),
        predictions=[int(answer) for answer in shown["prediction"]],
        confidences=[0.7] * len(shown),
        clean=clean,
        adv_images=(clean + step * sign).clip(0, 1),
    )


def _threat(
    attacks: Sequence[str],
    objectives: dict[str, str],
    eps: Sequence[float],
    num_images: int,
    num_classes: int,
    norm: str,
    threshold: dict[str, Any] | None,
) -> dict[str, Any]:
    told = {
        name: {
            "goal": objectives[name],
            "takes": "white-box",
            "source": "self",
            "eps": list(eps),
            "num_images": num_images,
            "settings": {"kind": "AttackEnsemble", "version": "worst-case 1"}
            if "worst" in name
            else {},
        }
        for name in attacks
    }
    return {
        "norm": norm,
        "units": "pixels in [0,1]",
        "data": "made up",
        "num_classes": num_classes,
        "threshold": threshold,
        "selected_on": None,
        "attacks": told,
    }


if __name__ == "__main__":
    write_fake_evaluation(Path(sys.argv[1]), num_images=1000, flags=FLAGS)
