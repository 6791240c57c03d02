"""A made-up run of the study ``detectors``, with numbers that can be counted by hand.

``python tests/support/fake_detectors.py DIR NUM_SEEDS`` writes one to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from fake_study import group, write_run, write_training, write_trial

from nullclass.experiments.config import Trial
from nullclass.results import schema
from nullclass.results.info import CostInfo
from nullclass.studies import find_study
from nullclass.studies.detectors.config import EPS, UNAWARE

NUM_CLEAN, NUM_ATTACKED = 100, 40
COST = CostInfo(num_forwards=13, num_backwards=10, cpu_ms=1.234)

FOOLED = {
    "clean-none": (20, 36, 40),
    "clean-softmax": (10, 30, 39),
    "clean-odds-are-odd": (8, 30, 38),
    "clean-consistency": (2, 4, 12),
    "adversarial-none": (1, 2, 4),
    "adversarial-softmax": (1, 1, 3),
    "adversarial-entropy": (9, 19, 29),
    "strong-none": (1, 2, 3),
    "strong-consistency": (0, 0, 1),
    "interval-proof": (0, 0, 1),
}
"""Of 40 attacked images, the last: fooled at each ε by an attacker who knows the rule."""
UNAWARE_FOOLED = {"fgsm": 2, "pgd": 4, "nearest": 6}
"""Of 40, the last: fooled by each unaware attack at every ε; twice as many of ``none``."""
NUM_NULL = 2
"""Of 100 clean images the first are null, except of ``none``."""


def write_fake_detectors(
    folder: Path, num_seeds: int = 1, *, models: Sequence[str] = tuple(FOOLED)
) -> Path:
    """Write a run folder.

    Args:
        folder: The run folder.
        num_seeds: Number of seeds; all have the same numbers.
        models: Variants of the study.
    """
    study = find_study("detectors")
    for trial in study.trials("full", range(num_seeds), models):
        epochs = np.arange(1, trial.training.recipe.epochs + 1)
        history = {"epoch": epochs, "loss": 1 / epochs, "train_accuracy": 0.9, "seconds": 60.0}
        write_training(folder, trial.training, history, last=len(epochs))
        _write_trial(folder / schema.TRIALS / f"{trial.model}-seed{trial.seed}", trial)
    return write_run(folder, study, models, num_seeds, preset="full")


def _write_trial(path: Path, trial: Trial) -> None:
    network, rule = trial.model.split("-", 1)
    clean = np.array(["correct"] * NUM_CLEAN, dtype=object)
    clean[: 0 if rule == "none" else NUM_NULL] = "null"
    tables = [group("clean", 0.0, clean)]
    for name in UNAWARE:
        num = UNAWARE_FOOLED[name] * (2 if rule == "none" else 1)
        for eps in EPS[-1:] if name == "nearest" else EPS:
            columns = {"source": network}
            outcomes = _outcomes(clean, num)
            tables.append(group(f"{name} on {network}", eps, outcomes, **columns))
    for eps, num in zip(EPS, FOOLED[trial.model], strict=True):
        tables.append(group("worst-case", eps, _outcomes(clean, num)))
        if rule != "none":
            forced = np.where(np.arange(NUM_ATTACKED) % 4 == 3, "correct", "null")
            columns = {"objective": "force-null"}
            tables.append(group("worst-case-force-null", eps, forced, **columns))
    proofs = {"certified": _certified(clean)} if rule == "proof" else {}
    write_trial(path, trial, tables, [], prediction=COST, **proofs)


def _outcomes(clean: np.ndarray, num_fooled: int) -> np.ndarray:
    outcomes = clean[:NUM_ATTACKED].copy()
    outcomes[NUM_ATTACKED - num_fooled :] = "fooled"
    return outcomes


def _certified(clean: np.ndarray) -> pd.DataFrame:
    """All but the last ten images are proved never to be fooled."""
    images = np.arange(NUM_CLEAN)
    never = images < NUM_CLEAN - 10
    columns = {
        "image": images,
        "label": images % 10,
        "norm": "linf",
        "eps_pixels": EPS[-1],
        "verifier": "interval",
        "prediction": np.where(clean == "null", -1, images % 10),
        "margin": np.where(never, 1.0, -1.0),
        "is_correct_proved": False,
        "is_rar_proved": never & (clean == "correct"),
        "is_never_fooled": never,
        "status": np.where(never, "not-fooled", "undecided"),
    }
    return pd.DataFrame(columns)


if __name__ == "__main__":
    write_fake_detectors(Path(sys.argv[1]), int(sys.argv[2]))
