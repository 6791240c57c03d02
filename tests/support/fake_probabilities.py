"""A run of the study ``null-probabilities`` that nobody trained, to be counted by hand.

``python tests/report/fake_probabilities.py DIR NUM_SEEDS`` writes one to look at.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from fake_run import build_evaluation, digit

from nullclass.core.files import write_json
from nullclass.evaluation.result import Evaluation
from nullclass.experiments.config import Trial
from nullclass.results import frames, schema, store
from nullclass.results.null_curve import NullCurve
from nullclass.studies import find_study
from nullclass.studies.null_probabilities.config import (
    EPS,
    MAKERS,
    QUERIED,
    VARIANTS,
)

NUM_CLEAN, NUM_MOVED, NUM_WHITE_BOX, NUM_SIZED = 100, 20, 10, 8
LARGEST = {"linf": 0.2, "l2": 2.5, "l0": 0.05}
"""Where each f is 1; it rises straight to there."""

# of 100 clean images: correct, null
CLEAN = {"clean": (99, 0), "np-l2": (98, 1), "ccat": (97, 2)}
OTHERS = (99, 0)
# of 20 images made on another model: fooled at each eps
MOVED = {"clean": (6, 14, 19), "np-l2": (0, 2, 4), "background": (6, 13, 18)}
OTHERS_MOVED = (0, 0, 1)
# of 10 images under the worst case: fooled at each eps; np-l0 stands
WHITE_BOX = {"clean": (7, 10, 10), "np-l0": (0, 0, 1)}
OTHERS_WHITE_BOX = (9, 10, 10)


class Unscored(Evaluation):
    """Without metrics of the null score, which this page does not tell and which take long."""

    def scores(self) -> pd.DataFrame:
        """None."""
        return pd.DataFrame(columns=["attack"])


def write_fake_probabilities(
    folder: Path,
    num_seeds: int = 1,
    *,
    models: Sequence[str] = VARIANTS,
    lacking: Iterable[tuple[str, int]] = (),
    has_sources: bool = True,
    has_sizes: bool = True,
) -> Path:
    """Write a run folder; model and seed of evaluations it lacks may be given."""
    study, left_out = find_study("null-probabilities"), set(lacking)
    planned = study.trials("quick", range(num_seeds), models)
    for trial in planned:
        _write_training(folder, trial)
        if (trial.model, trial.seed) not in left_out:
            _write_trial(folder, trial, has_sources, has_sizes)
    for seed in range(num_seeds):
        _write_shared(folder, seed, planned if has_sources else [])
    write_json(
        folder / schema.RUN,
        {
            "study": study.name,
            "preset": "quick",
            "models": list(models),
            "seeds": list(range(num_seeds)),
            "selections": ["last"],
            "settings": {"attacks": [], "trainings": {}},
            "data": {"name": "made up", "num_training_images": 55_000},
            "started": "2030-01-02T03:04:05+00:00",
        },
    )
    store.write_summary(folder, study.name, study.published)
    return folder


def _write_training(folder: Path, trial: Trial) -> None:
    place = folder / schema.MODELS / f"{trial.model}-seed{trial.seed}"
    epochs = np.arange(1, 4)
    history = pd.DataFrame(
        {
            "epoch": epochs,
            "loss": 0.3 / epochs,
            "null_loss": math.nan if trial.model == "clean" else 0.5 / epochs,
            "train_accuracy": 1 - 0.05 / epochs,
            "validation_accuracy": math.nan,
            "seconds": 9.0,
        }
    )
    frames.write_frame(place / schema.HISTORY, history)
    store.finalize(place, {"config": asdict(trial.training), "epochs": {"last": 3}})


def _write_trial(folder: Path, trial: Trial, has_sources: bool, has_sizes: bool) -> None:
    place = folder / schema.TRIALS / f"{trial.model}-seed{trial.seed}"
    correct, null = CLEAN.get(trial.model, OTHERS)
    tables = [_group("clean", "clean", "clean", 0.0, NUM_CLEAN, 100 - correct - null, null)]
    for eps, fooled in zip(EPS, WHITE_BOX.get(trial.model, OTHERS_WHITE_BOX), strict=True):
        tables.append(_group("worst-case", "fool", "self", eps, NUM_WHITE_BOX, fooled))
        tables.append(_group("rays", "fool", "self", eps, NUM_WHITE_BOX, fooled // 2, 1))
    for craft in trial.crafted if has_sources else ():
        for eps, fooled in zip(EPS, _moved(craft.source_name, trial), strict=True):
            told = (craft.attack_name, "fool", craft.source_name, eps, NUM_MOVED, fooled)
            tables.append(_group(*told, 0 if trial.model == "clean" else 1))
    if has_sizes:
        frames.write_frame(place / schema.SIZES, _sizes(trial))
    rng = np.random.default_rng([trial.seed, VARIANTS.index(trial.model)])
    Unscored(**vars(build_evaluation(pd.concat(tables, ignore_index=True), _examples(rng)))).write(
        place,
        {
            "model": trial.model,
            "seed": trial.seed,
            "selection": trial.selection,
            "config": asdict(trial),
            "trained_in": f"{schema.MODELS}/{trial.model}-seed{trial.seed}",
        },
    )


def _moved(source_name: str, trial: Trial) -> tuple[int, ...]:
    """Fooled by what was made on a source, of an odd seed one more; on the model itself as many as
    under the worst case."""
    if source_name == trial.model:
        return WHITE_BOX.get(trial.model, OTHERS_WHITE_BOX)
    odd = trial.seed % 2
    return tuple(min(NUM_MOVED, n + odd) for n in MOVED.get(trial.model, OTHERS_MOVED))


def _write_shared(folder: Path, seed: int, planned: Sequence[Trial]) -> None:
    """Null curves, what became of crafted images on their sources, and substitutes by queries."""
    for norm, largest in LARGEST.items():
        sizes = tuple(np.linspace(0, 1.25 * largest, 21)[1:].tolist())
        shares = tuple(min(1.0, size / largest) for size in sizes)
        raw = tuple(0.99 * share for share in shares)
        curve = NullCurve(norm, sizes, shares, raw, 480, MAKERS[norm][0])
        told = {"model": "clean", "seed": seed, "curve": curve.to_dict()}
        store.finalize(_made(folder / schema.ESTIMATES / f"{norm}-seed{seed}"), told)
    crafts = {(c.name, c.seed): c for t in planned if t.seed == seed for c in t.crafted}
    for craft in crafts.values():
        place = _made(folder / schema.CRAFTED / f"{craft.name}-seed{craft.seed}")
        # Half of what was made at the smallest eps fools the source, and all at the others.
        counts = (NUM_MOVED // 2, NUM_MOVED, NUM_MOVED)
        rows = [
            _group("transfer", "fool", "self", eps, NUM_MOVED, fooled)
            for eps, fooled in zip(EPS, counts, strict=True)
        ]
        frames.write_frame(place / schema.ROWS, pd.concat(rows))
        told = {"model": craft.source_name, "seed": craft.seed, "attack": craft.plan.name}
        store.finalize(place, told)
    for name, substitute in {c.source_name: c.source.training for c in crafts.values()}.items():
        if not name.startswith(QUERIED):
            continue
        place = _made(folder / schema.MODELS / f"{name}-seed{substitute.seed}")
        rounds = pd.DataFrame(
            {
                "num_queries": [150, 150, 300],
                "num_images": [150, 300, 600],
                "null": [0.0, 0.1, 0.2],
                "agreement_before": [math.nan, 0.5, 0.75],
                "agreement_after": [0.9, 0.95, 0.98],
            }
        )
        frames.write_frame(place / schema.QUERIES, rounds)
        store.finalize(place, {"config": {"name": name, "seed": substitute.seed}})


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sizes(trial: Trial) -> pd.DataFrame:
    """The models with NULL probabilities keep to f, but for what np-l2 lacks; others never do."""
    tables = []
    for plan in trial.sizes:
        for size in plan.sizes:
            share = min(1.0, size / LARGEST[plan.norm])
            follows = trial.model == f"np-{plan.norm}"
            short = 0.8 if trial.model == "np-l2" else 1.0
            p_null = short * share if follows else 0.0 if trial.model in ("clean", "ccat") else 0.3
            p_label = (1 - p_null) * (1.0 if follows else 1 - 0.9 * share)
            outcome = "null" if p_null > 0.5 else "correct" if p_label > 0.5 else "fooled"
            labels = np.arange(NUM_SIZED) % 10
            predicted = {"null": labels * 0 - 1, "correct": labels, "fooled": (labels + 1) % 10}
            tables.append(
                pd.DataFrame(
                    {
                        "perturbation": plan.perturbation,
                        "norm": plan.norm,
                        "size": size,
                        "image": np.arange(NUM_SIZED),
                        "actual_size": size,
                        "label": labels,
                        "prediction": predicted[outcome],
                        "outcome": outcome,
                        "p_label": p_label,
                        "p_null": p_null,
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def _group(
    attack: str, objective: str, source_name: str, eps: float, num: int, fooled: int, null: int = 0
) -> pd.DataFrame:
    """So many images, the first of them fooled, the next answered null."""
    outcomes = np.array(["fooled"] * fooled + ["null"] * null + ["correct"] * num)[:num]
    labels = np.arange(num) % 10
    predicted = np.select(
        [outcomes == "null", outcomes == "fooled"], [np.full(num, -1), (labels + 1) % 10], labels
    )
    return pd.DataFrame(
        {
            "image": np.arange(num)[::-1] if attack == "clean" else np.arange(num),
            "label": labels[::-1] if attack == "clean" else labels,
            "attack": attack,
            "objective": objective,
            "source": source_name,
            "norm": "linf",
            "has_own_eps": False,
            "eps_pixels": eps,
            "member": "clean" if attack == "clean" else "no-success",
            "prediction": predicted,
            "outcome": outcomes,
            "confidence": 0.9,
            "loss": 0.5,
            "null_loss": 2.0,
            "real_prediction": np.where(predicted < 0, labels, predicted),
            "null_score": np.where(outcomes == "null", 1.0, -1.0),
        }
    )


def _examples(rng: np.random.Generator) -> list[schema.Examples]:
    labels = list(range(4))
    clean = np.stack([digit(label, rng) for label in labels])
    sign = np.sign(rng.normal(size=clean.shape)).astype(np.float32)
    return [
        schema.Examples(
            attack="worst-case",
            norm="linf",
            eps_pixels=eps,
            budgets=[eps] * 4,
            labels=labels,
            clean_predictions=labels,
            clean_confidences=[0.99] * 4,
            predictions=[1, -1, 2, 4],
            confidences=[0.9] * 4,
            clean=clean,
            adv_images=(clean + np.float32(eps) * sign).clip(0, 1),
        )
        for eps in EPS
    ]


if __name__ == "__main__":
    write_fake_probabilities(Path(sys.argv[1]), int(sys.argv[2]))
