"""A made-up evaluation: the ε at which each image fails is drawn, the rest follows from it.

``python tests/support/fake_evaluation.py DIR`` writes one to look at.
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
from fake_run import examples_of, rows_table

from nullclass.core.files import write_json
from nullclass.evaluation.result import Evaluation
from nullclass.report.formatting import SMALLEST
from nullclass.results import schema, store
from nullclass.results.schema import NO_MEMBER, Flag

MEMBERS = ("margin", "targets", "square")
"""Members of the made-up ensembles; the last one never succeeds."""
OBJECTIVES = {"fgsm": "untargeted", "worst-case": "fool", "worst-case-force-null": "force-null"}

FLAGS = (
    Flag("zero-gradients", "The gradient of the margin is exactly zero on 31 of 64 images."),
    Flag("null-on-clean", "The model refuses 9 of 120 clean images (7.5 %)."),
)


@dataclass(frozen=True)
class World:
    """Images, and the smallest ε that fools or gives null; infinite if there is none."""

    labels: np.ndarray
    answers: np.ndarray
    """To the clean images."""
    fooled_at: np.ndarray
    null_at: np.ndarray
    member: np.ndarray = field(repr=False)
    """Index in :data:`MEMBERS` of the member that would succeed."""
    has_null: bool
    norm: str

    @property
    def num_classes(self) -> int:
        """At least 2."""
        return max(2, int(self.labels.max()) + 1)

    def rows(self, predicted: np.ndarray, rng: np.random.Generator, **columns: Any) -> pd.DataFrame:
        """Rows of the first images with these predictions."""
        num = len(predicted)
        sure = rng.exponential(6, num)
        score = np.where(predicted < 0, sure, -sure) if self.has_null else np.exp(-sure)
        random = {
            "confidence": rng.uniform(0.5, 1, num),
            "loss": rng.exponential(1, num),
            "null_loss": rng.exponential(5, num) if self.has_null else math.nan,
            "null_score": score,
        }
        return rows_table(self.labels[:num], predicted, norm=self.norm, **random, **columns)


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
    world = _world(num_images, num_classes, has_null, norm, rng)
    clean = world.rows(world.answers, rng)
    rows, costs, examples = [clean], [], []
    for attack in attacks:
        tables = [_attacked(world, attack, budget, rng) for budget in eps]
        rows += tables
        examples += [
            examples_of(table.head(8), world.answers[:8], rng, budget)
            for table, budget in zip(tables, eps, strict=True)
        ]
        costs += _costs(tables, clean, eps)
    if num_smallest:
        table = _smallest(world, num_smallest, rng)
        rows.append(table)
        costs.append(_cost(table, SMALLEST, num_smallest, math.nan, 800, 400))
        first = table.sort_values("eps_pixels", kind="stable").head(8)
        examples.append(examples_of(first, world.answers[first["image"]], rng, math.nan))
    spare = _world(max(num_held_out, 1), num_classes, has_null, norm, rng)
    evaluation = Evaluation(
        rows=pd.concat(rows, ignore_index=True),
        costs=pd.DataFrame(costs, columns=list(schema.COST_COLUMNS)),
        examples=examples,
        held_out=spare.rows(spare.answers, rng).head(num_held_out),
        ood=_ood(ood, num_images, has_null, rng),
        threat=_threat(attacks, eps, num_images, num_classes, norm, threshold),
        probes={"has_null": has_null} if is_checked else {},
        flags=list(flags),
        certified=_certified(world, proved),
    )
    evaluation.write(store.trial_folder(folder, name, 0), {"model": name, "seed": 0})
    store.write_summary(folder, "evaluate")
    settings = {
        "attacks": [{"attack": a, "eps": list(eps), "settings": {}} for a in attacks],
        "card": {"architecture": "small"},
    }
    info = {
        "study": "evaluate",
        "models": [name],
        "seeds": [0],
        "settings": settings,
        "data": {"name": "made up", "num_test_images": num_images},
        "started": "2030-01-02T03:04:05+00:00",
    }
    write_json(folder / schema.RUN, info)
    return folder


def _world(
    num_images: int, num_classes: int, has_null: bool, norm: str, rng: np.random.Generator
) -> World:
    labels = rng.integers(0, num_classes, num_images)
    kinds = rng.choice(3, num_images, p=[0.9, 0.04 * has_null, 0.1 - 0.04 * has_null])
    other = (labels + rng.integers(1, num_classes, num_images)) % num_classes
    fooled_at = rng.gamma(4, 0.06, num_images)
    fooled_at[rng.random(num_images) < 0.15] = math.inf
    fooled_at[kinds == 2] = 0.0
    null_at = np.where(kinds == 1, 0.0, rng.gamma(4, 0.05, num_images))
    if not has_null:
        null_at[:] = math.inf
    answers = np.choose(kinds, [labels, np.full(num_images, -1), other])
    member = rng.choice(2, num_images, p=[0.7, 0.3])
    return World(labels, answers, fooled_at, null_at, member, has_null, norm)


def _attacked(world: World, attack: str, eps: float, rng: np.random.Generator) -> pd.DataFrame:
    """Rows of one attack at one ε; a single step fools only at 1.6 times the ε."""
    num, objective = len(world.labels), OBJECTIVES[attack]
    wrong = (world.labels + 1 + np.arange(num) % (world.num_classes - 1)) % world.num_classes
    predicted, member = world.answers.copy(), np.full(num, NO_MEMBER, dtype=object)
    names = np.array(MEMBERS, dtype=object)[world.member]
    if objective == "force-null":
        succeeded = world.null_at <= eps
        predicted[succeeded] = -1
        is_new = succeeded & (world.null_at > 0)
    else:
        succeeded = (1.0 if objective == "fool" else 1.6) * world.fooled_at <= eps
        predicted = np.where(succeeded & (predicted == world.labels), wrong, predicted)
        is_new = succeeded & (world.fooled_at > 0) & (objective == "fool")
        if objective == "untargeted":
            predicted[~succeeded & (world.null_at * 2 <= eps)] = -1
    member[is_new] = names[is_new]
    columns = {"attack": attack, "objective": objective, "eps_pixels": eps, "member": member}
    return world.rows(predicted, rng, **columns)


def _smallest(world: World, num: int, rng: np.random.Generator) -> pd.DataFrame:
    sizes, labels = world.fooled_at[:num], world.labels[:num]
    found = np.isfinite(sizes)
    wrong = np.where(sizes > 0, (labels + 1) % world.num_classes, world.answers[:num])
    return world.rows(
        np.where(found, wrong, labels),
        rng,
        attack=SMALLEST,
        objective="fool",
        has_own_eps=True,
        eps_pixels=np.where(found, sizes, 1.0),
        member=np.where(found, SMALLEST, NO_MEMBER).astype(object),
    )


def _costs(
    tables: Sequence[pd.DataFrame], clean: pd.DataFrame, eps: Sequence[float]
) -> list[dict[str, Any]]:
    """One line per member and ε, counted from the rows."""
    objective = tables[0]["objective"].iloc[0]
    if objective == "untargeted":
        return [
            _cost(table, "fgsm", len(table), budget, len(table), len(table))
            for table, budget in zip(tables, eps, strict=True)
        ]
    aim = "fooled" if objective == "fool" else "null"
    lines, done = [], set(clean.loc[clean["outcome"] == aim, "image"])
    for table, budget in zip(tables, eps, strict=True):
        new = table[(table["outcome"] == aim) & ~table["image"].isin(done)]
        num_active = len(table) - len(done)
        for index, member in enumerate(MEMBERS):
            successes = int((new["member"] == member).sum())
            passes = num_active * (index + 1) * 20, num_active * 20
            line = _cost(table, member, num_active, budget, *passes)
            lines.append(line | {"num_successes": successes})
            num_active -= successes
        done |= set(new["image"])
    return lines


def _cost(
    table: pd.DataFrame, member: str, num_active: int, eps: float, forward: int, backward: int
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
        "num_images": num_active,
        "num_successes": int((table["outcome"] == "fooled").sum()),
        "num_forwards": forward,
        "num_backwards": backward,
        "seconds": forward / 500,
    }


def _certified(world: World, eps: Sequence[float]) -> pd.DataFrame:
    """Proofs of most of what is true of the images."""
    tables = [pd.DataFrame(columns=list(schema.CERTIFIED_COLUMNS))]
    for each in eps:
        never = world.fooled_at > 1.2 * each
        is_right = world.answers == world.labels
        always = never & is_right & (world.null_at > 1.5 * each)
        columns = {
            "image": np.arange(len(world.labels)),
            "label": world.labels,
            "norm": world.norm,
            "eps_pixels": each,
            "verifier": "interval",
            "prediction": world.answers,
            "margin": np.where(never, 1.0, -1.0),
            "is_correct_proved": always,
            "is_rar_proved": never & is_right,
            "is_never_fooled": never,
            "status": np.where(always, "correct", np.where(never, "not-fooled", "undecided")),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables[1:], ignore_index=True) if eps else tables[0]


def _ood(
    sources: Sequence[str], num: int, has_null: bool, rng: np.random.Generator
) -> pd.DataFrame:
    tables = [pd.DataFrame(columns=list(schema.OOD_COLUMNS))]
    for index, source in enumerate(sources):
        score = rng.normal(3 - 2 * index, 3, num)
        columns = {
            "source": source,
            "image": np.arange(num),
            "prediction": np.where((score > 0) & has_null, -1, 1),
            "real_prediction": 1,
            "confidence": 0.8,
            "null_score": score if has_null else np.exp(-abs(score)),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables[1:], ignore_index=True) if sources else tables[0]


def _threat(
    attacks: Sequence[str],
    eps: Sequence[float],
    num_images: int,
    num_classes: int,
    norm: str,
    threshold: dict[str, Any] | None,
) -> dict[str, Any]:
    ensemble = {"kind": "AttackEnsemble", "version": "worst-case 1"}
    return {
        "norm": norm,
        "units": "pixels in [0,1]",
        "data": "made up",
        "num_classes": num_classes,
        "threshold": threshold,
        "selected_on": None,
        "attacks": {
            name: {
                "objective": OBJECTIVES[name],
                "access": "white-box",
                "source": "self",
                "eps": list(eps),
                "num_images": num_images,
                "settings": ensemble if "worst" in name else {},
            }
            for name in attacks
        },
    }


if __name__ == "__main__":
    write_fake_evaluation(Path(sys.argv[1]), num_images=1000, flags=FLAGS)
