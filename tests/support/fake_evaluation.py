"""A made-up evaluation: the ε at which each image fails is drawn, the rest follows from it.

``python tests/support/fake_evaluation.py DIR`` writes one to look at.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fake_run import PROVENANCE, build_evaluation, examples_of, rows_table, run_info, trial_folder

from nullclass.report.formatting import SMALLEST
from nullclass.results import schema, store
from nullclass.results.info import Settings
from nullclass.results.schema import NO_MEMBER, Flag

MEMBERS = ("margin", "targets", "square")
"""Members of the made-up ensembles; the last one never succeeds."""
OBJECTIVES = {"fgsm": "untargeted", "worst-case": "fool", "worst-case-force-null": "force-null"}
AIMS = {"fool": "fooled", "force-null": "null"}

FLAGS = (
    Flag(
        name="zero-gradients",
        message="The gradient of the margin is exactly zero on 31 of 64 images.",
    ),
    Flag(name="null-on-clean", message="The model refuses 9 of 120 clean images (7.5 %)."),
)


def write_fake_evaluation(
    folder: Path,
    *,
    num_images: int = 120,
    num_classes: int = 10,
    has_null: bool = True,
    eps: Sequence[float] = (0.05, 0.1, 0.2, 0.3),
    attacks: Sequence[str] = tuple(OBJECTIVES),
    ood: Sequence[str] = ("noise", "blank", "tiles"),
    num_held_out: int = 50,
    num_smallest: int = 40,
    flags: Sequence[Flag] = (),
    is_checked: bool = True,
    norm: str = "linf",
    proved: Sequence[float] = (),
    has_proved_eps: bool = False,
) -> Path:
    """Write a run folder as ``nullclass evaluate`` does; the same arguments give the same run."""
    rng = np.random.default_rng(5)
    images = _draw_images(num_images, num_classes, has_null, rng)

    def rows(predicted: np.ndarray, of: pd.DataFrame = images, **columns: Any) -> pd.DataFrame:
        sure = rng.exponential(6, len(predicted))
        is_null = predicted < 0
        random = {
            "confidence": rng.uniform(0.5, 1, len(predicted)),
            "loss": rng.exponential(1, len(predicted)),
            "null_loss": rng.exponential(5, len(predicted)) if has_null else math.nan,
            "null_score": np.where(is_null, sure, -sure) if has_null else np.exp(-sure),
        }
        labels = of["label"].to_numpy()[: len(predicted)]
        return rows_table(labels, predicted, norm=norm, **random, **columns)

    answers = images["answer"].to_numpy()
    clean = rows(answers)
    tables, costs, examples = [clean], [], []
    for attack in attacks:
        done = set(clean.loc[clean["outcome"] == AIMS.get(OBJECTIVES[attack]), "image"])
        for budget in eps:
            predicted, member = _attacked(images, OBJECTIVES[attack], budget, num_classes)
            about = {"attack": attack, "objective": OBJECTIVES[attack], "eps_pixels": budget}
            tables.append(rows(predicted, member=member, **about))
            costs += _costs(tables[-1], done)
            examples.append(examples_of(tables[-1].head(8), answers[:8], rng, budget))
    if num_smallest:
        sizes = images["fooled_at"].to_numpy()[:num_smallest]
        found, labels = np.isfinite(sizes), images["label"].to_numpy()[:num_smallest]
        wrong = np.where(sizes > 0, (labels + 1) % num_classes, answers[:num_smallest])
        smallest = rows(
            np.where(found, wrong, labels),
            attack=SMALLEST,
            objective="fool",
            has_own_eps=True,
            eps_pixels=np.where(found, sizes, 1.0),
            member=np.where(found, SMALLEST, NO_MEMBER).astype(object),
        )
        tables.append(smallest)
        num_fooled = int((smallest["outcome"] == "fooled").sum())
        costs.append(_cost(smallest, SMALLEST, num_smallest, num_fooled, 800, 400))
        costs[-1]["eps_pixels"] = math.nan
        first = smallest.sort_values("eps_pixels", kind="stable").head(8)
        examples.append(examples_of(first, answers[first["image"]], rng, math.nan))
    spare = _draw_images(max(num_held_out, 1), num_classes, has_null, rng)
    evaluation = build_evaluation(
        pd.concat(tables, ignore_index=True),
        examples,
        costs=pd.DataFrame(costs, columns=list(schema.COST_COLUMNS)),
        held_out=rows(spare["answer"].to_numpy(), spare).head(num_held_out),
        ood=_ood(ood, num_images, has_null, rng),
        threat=_threat(attacks, eps, num_images, num_classes, norm),
        probes={"has_null": has_null} if is_checked else {},
        flags=list(flags),
        certified=_certified(images, proved, norm),
        proved_eps=_proved_eps(images.head(num_smallest if has_proved_eps else 0), norm),
    )
    path = trial_folder(folder, "made-up", 0)
    evaluation.write(path, model="made-up", seed=0, provenance=PROVENANCE)
    settings = Settings(attacks=[{"attack": attack, "eps": [*eps]} for attack in attacks])
    store.write_info(folder, run_info(folder, settings=settings))
    return folder


def _draw_images(
    num: int, num_classes: int, has_null: bool, rng: np.random.Generator
) -> pd.DataFrame:
    """Label, answer when clean, smallest ε that fools and that gives null, member that succeeds."""
    label = rng.integers(0, num_classes, num)
    kind = rng.choice(3, num, p=[0.9, 0.04 * has_null, 0.1 - 0.04 * has_null])
    other = (label + rng.integers(1, num_classes, num)) % num_classes
    fooled_at = np.where(rng.random(num) < 0.15, math.inf, rng.gamma(4, 0.06, num))
    null_at = rng.gamma(4, 0.05, num) if has_null else np.full(num, math.inf)
    return pd.DataFrame(
        {
            "label": label,
            "answer": np.choose(kind, [label, np.full(num, -1), other]),
            "fooled_at": np.where(kind == 2, 0.0, fooled_at),
            "null_at": np.where(kind == 1, 0.0, null_at),
            "member": rng.choice(MEMBERS[:2], num, p=[0.7, 0.3]),
        }
    )


def _attacked(
    images: pd.DataFrame, objective: str, eps: float, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and members of one attack; a single step fools only at 1.6 times the ε."""
    label, answer, fooled_at, null_at, member = (images[name].to_numpy() for name in images)
    wrong = (label + 1 + np.arange(len(label)) % (num_classes - 1)) % num_classes
    if objective == "force-null":
        succeeded, is_new = null_at <= eps, null_at > 0
        predicted = np.where(succeeded, -1, answer)
    else:
        is_single = objective == "untargeted"
        succeeded, is_new = fooled_at * (1.6 if is_single else 1) <= eps, fooled_at > 0
        predicted = np.where(succeeded & (answer == label), wrong, answer)
        if is_single:
            predicted[~succeeded & (null_at * 2 <= eps)] = -1
    has_member = succeeded & is_new & (objective in AIMS)
    return predicted, np.where(has_member, member, NO_MEMBER).astype(object)


def _costs(table: pd.DataFrame, done: set[int]) -> list[dict[str, Any]]:
    """One line per member, counted from the rows; ``done`` gets the new successes."""
    aim = AIMS.get(table["objective"][0])
    if aim is None:
        num = len(table)
        return [_cost(table, "fgsm", num, int((table["outcome"] == "fooled").sum()), num, num)]
    new = table[(table["outcome"] == aim) & ~table["image"].isin(done)]
    num_active, lines = len(table) - len(done), []
    for index, member in enumerate(MEMBERS):
        successes = int((new["member"] == member).sum())
        passes = num_active * (index + 1) * 20, num_active * 20
        lines.append(_cost(table, member, num_active, successes, *passes))
        num_active -= successes
    done |= set(new["image"])
    return lines


def _cost(
    table: pd.DataFrame, member: str, num_active: int, successes: int, forward: int, backward: int
) -> dict[str, Any]:
    first = table.iloc[0]
    return {
        **first[["attack", "objective", "source", "norm", "eps_pixels"]],
        "access": "white-box",
        "is_iterative": member != "fgsm",
        "member": member,
        "num_images": num_active,
        "num_successes": successes,
        "num_forwards": forward,
        "num_backwards": backward,
        "seconds": forward / 500,
    }


def _certified(images: pd.DataFrame, eps: Sequence[float], norm: str) -> pd.DataFrame:
    """Proofs of most of what is true of the images."""
    tables = [pd.DataFrame(columns=list(schema.CERTIFIED_COLUMNS))]
    for each in eps:
        never = images["fooled_at"] > 1.2 * each
        is_right = images["answer"] == images["label"]
        always = never & is_right & (images["null_at"] > 1.5 * each)
        columns = {
            "image": images.index,
            "label": images["label"],
            "norm": norm,
            "eps_pixels": each,
            "verifier": "interval",
            "prediction": images["answer"],
            "margin": np.where(never, 1.0, -1.0),
            "is_correct_proved": always,
            "is_rar_proved": never & is_right,
            "is_never_fooled": never,
            "status": np.select([always, never], ["correct", "not-fooled"], "undecided"),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables[1:], ignore_index=True) if eps else tables[0]


def _proved_eps(images: pd.DataFrame, norm: str) -> pd.DataFrame:
    """The largest eps proved: 0.7 times the one that fools, and nothing of every seventh image."""
    tables = [
        _certified(images.iloc[[row]], [0.7 * min(size, 1.0)], norm)
        for row, size in enumerate(images["fooled_at"])
    ]
    table = pd.concat([_certified(images, [], norm), *tables], ignore_index=True)
    is_none = (table["image"] % 7 == 0) | (table["eps_pixels"] == 0)
    return table.assign(is_never_fooled=~is_none, eps_pixels=table["eps_pixels"].mask(is_none, 0.0))


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
    attacks: Sequence[str], eps: Sequence[float], num_images: int, num_classes: int, norm: str
) -> dict[str, Any]:
    ensemble = {"kind": "AttackEnsemble", "version": "worst-case 1"}
    return {
        "norm": norm,
        "units": "pixels in [0,1]",
        "data": "made up",
        "num_classes": num_classes,
        "threshold": None,
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
