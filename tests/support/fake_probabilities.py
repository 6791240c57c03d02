"""A made-up run of the study ``null-probabilities``, with numbers that can be counted by hand.

``python tests/support/fake_probabilities.py DIR NUM_SEEDS`` writes one to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fake_run import PROVENANCE
from fake_study import examples, group, predictions_of, write_run, write_training, write_trial

from nullclass.core.documents import json_values
from nullclass.experiments.config import Trial
from nullclass.results import frames, schema, store
from nullclass.results.info import CraftResult, EstimateResult, TrainingResult
from nullclass.results.null_curve import NullCurve
from nullclass.studies import find_study
from nullclass.studies.null_probabilities.config import EPS, MAKERS, QUERIED, VARIANTS

NUM_CLEAN, NUM_TRANSFERRED, NUM_WHITE_BOX, NUM_SIZED = 100, 20, 10, 8
LARGEST = {"linf": 0.2, "l2": 2.5, "l0": 0.05}
"""Where each f is 1; it increases linearly from 0."""

# of 100 clean images: correct, null
CLEAN = {"clean": (99, 0), "np-l2": (98, 1), "ccat": (97, 2)}
OTHERS = (99, 0)
# of 20 images made on another model: fooled at each eps
TRANSFERRED = {"clean": (6, 14, 19), "np-l2": (0, 2, 4), "background": (6, 13, 18)}
OTHERS_TRANSFERRED = (0, 0, 1)
# of 10 images under the worst case: fooled at each eps
WHITE_BOX = {"clean": (7, 10, 10), "np-l0": (0, 0, 1)}
OTHERS_WHITE_BOX = (9, 10, 10)


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
    epochs = np.arange(1, 4)
    history = {"epoch": epochs, "loss": 0.3 / epochs, "train_accuracy": 1 - 0.05 / epochs}
    for trial in planned:
        null_loss = {} if trial.model == "clean" else {"null_loss": 0.5 / epochs}
        write_training(folder, trial.training, history | null_loss, last=3)
        if (trial.model, trial.seed) not in left_out:
            _write_trial(folder, trial, has_sources, has_sizes)
    for seed in range(num_seeds):
        _write_curves(folder, seed)
        if has_sources:
            _write_sources(folder, [trial for trial in planned if trial.seed == seed])
    return write_run(folder, study, models, num_seeds)


def _rows(attack: str, eps: float, num: int, fooled: int, null: int = 0, **columns: Any) -> Any:
    """So many images, the first of them fooled, the next answered null."""
    outcomes = np.array(["fooled"] * fooled + ["null"] * null + ["correct"] * num)[:num]
    return group(attack, eps, outcomes, **columns)


def _write_trial(folder: Path, trial: Trial, has_sources: bool, has_sizes: bool) -> None:
    path = folder / schema.TRIALS / f"{trial.model}-seed{trial.seed}"
    correct, null = CLEAN.get(trial.model, OTHERS)
    # the last images are not correct, so that all attacked ones are
    outcomes = np.repeat(["correct", "null", "fooled"], [correct, null, 100 - correct - null])
    tables = [group("clean", 0.0, outcomes)]
    white_box = WHITE_BOX.get(trial.model, OTHERS_WHITE_BOX)
    for eps, fooled in zip(EPS, white_box, strict=True):
        tables.append(_rows("worst-case", eps, NUM_WHITE_BOX, fooled))
        tables.append(_rows("rays", eps, NUM_WHITE_BOX, fooled // 2, 1))
    for craft in trial.crafted if has_sources else ():
        # one more of an odd seed; on the model itself as many as under the worst case
        others = TRANSFERRED.get(trial.model, OTHERS_TRANSFERRED)
        counts = [min(NUM_TRANSFERRED, num + trial.seed % 2) for num in others]
        is_own = craft.source_name == trial.model
        for eps, fooled in zip(EPS, white_box if is_own else counts, strict=True):
            null = int(trial.model != "clean")
            columns = {"source": craft.source_name}
            tables.append(_rows(craft.attack_name, eps, NUM_TRANSFERRED, fooled, null, **columns))
    if has_sizes:
        frames.write_frame(path / schema.SIZES, _sizes(trial))
    rng = np.random.default_rng([trial.seed, VARIANTS.index(trial.model)])
    shown = [examples("worst-case", eps, [1, -1, 2, 4], rng) for eps in EPS]
    write_trial(path, trial, tables, shown)


def _write_curves(folder: Path, seed: int) -> None:
    for norm, largest in LARGEST.items():
        sizes = np.linspace(0, 1.25 * largest, 21)[1:]
        shares = (sizes / largest).clip(max=1)
        raw = tuple(0.99 * shares)
        curve = NullCurve(norm, tuple(sizes.tolist()), tuple(shares), raw, 480, MAKERS[norm][0])
        values = json_values(curve.to_dict())
        result = EstimateResult(model="clean", seed=seed, curve=values, provenance=PROVENANCE)
        store.finalize(_made(folder / schema.ESTIMATES / f"{norm}-seed{seed}"), result)


def _write_sources(folder: Path, planned: Sequence[Trial]) -> None:
    """Outcomes of crafted images on their sources, and substitutes by queries."""
    for craft in {(c.name, c.seed): c for trial in planned for c in trial.crafted}.values():
        path = _made(folder / schema.CRAFTED / f"{craft.name}-seed{craft.seed}")
        # half of the images made at the smallest eps fool the source, and all at the others
        counts = (NUM_TRANSFERRED // 2, NUM_TRANSFERRED, NUM_TRANSFERRED)
        rows = [_rows("transfer", e, NUM_TRANSFERRED, n) for e, n in zip(EPS, counts, strict=True)]
        frames.write_frame(path / schema.ROWS, pd.concat(rows))
        values = {"model": craft.source_name, "attack": craft.plan.name}
        store.finalize(path, CraftResult(**values, seed=craft.seed, provenance=PROVENANCE))
        if not craft.source_name.startswith(QUERIED):
            continue
        path = _made(folder / schema.MODELS / f"{craft.source_name}-seed{craft.seed}")
        rounds = {
            "num_queries": [150, 150, 300],
            "num_images": [150, 300, 600],
            "null": [0.0, 0.1, 0.2],
            "agreement_before": [np.nan, 0.5, 0.75],
            "agreement_after": [0.9, 0.95, 0.98],
        }
        frames.write_frame(path / schema.QUERIES, pd.DataFrame(rounds))
        values = {"name": craft.source_name, "seed": craft.seed}
        store.finalize(path, TrainingResult(**values, epochs={}, provenance=PROVENANCE))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sizes(trial: Trial) -> pd.DataFrame:
    """Null probabilities follow f for the model trained with it, np-l2 with 80 % of it."""
    tables = []
    for plan in trial.sizes:
        for size in plan.sizes:
            share = min(1.0, size / LARGEST[plan.norm])
            follows = trial.model == f"np-{plan.norm}"
            factor = 0.8 if trial.model == "np-l2" else 1.0
            other = 0.0 if trial.model in ("clean", "ccat") else 0.3
            p_null = factor * share if follows else other
            p_label = (1 - p_null) * (1.0 if follows else 1 - 0.9 * share)
            outcome = "null" if p_null > 0.5 else "correct" if p_label > 0.5 else "fooled"
            outcomes = np.array([outcome] * NUM_SIZED)
            columns = {
                "perturbation": plan.perturbation,
                "norm": plan.norm,
                "size": size,
                "image": np.arange(NUM_SIZED),
                "actual_size": size,
                "label": np.arange(NUM_SIZED) % 10,
                "prediction": predictions_of(outcomes),
                "outcome": outcome,
                "p_label": p_label,
                "p_null": p_null,
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    write_fake_probabilities(Path(sys.argv[1]), int(sys.argv[2]))
