"""A made-up run of the study ``null-samples``, with numbers that can be counted by hand.

``python tests/support/fake_samples.py DIR NUM_SETS`` writes one to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fake_study import examples, group, write_run, write_training, write_trial

from nullclass.core.documents import json_values
from nullclass.experiments.config import Trial
from nullclass.results import frames, schema
from nullclass.results.info import Settings
from nullclass.studies import find_study
from nullclass.studies.null_samples.config import VARIANTS, WHITE_BOX_AT_THRESHOLD, training

NUM_CLEAN, NUM_ATTACKED, NUM_WHITE_BOX, NUM_SHOWN = 50, 20, 10, 30
CURVE_EPS = (0.0, 0.08, 0.2, 0.5, 0.8, 1.0)
WHITE_BOX_EPS = (0.1, 0.3)

# correct, null and fooled of 20 images at threshold: in even sets, in odd ones
AT_THRESHOLD = {
    "base": ((0, 0, 20), (0, 0, 20)),
    "u": ((15, 1, 4), (15, 0, 5)),
    "s": ((12, 6, 2), (10, 8, 2)),
    "m": ((2, 14, 4), (2, 14, 4)),
}
OTHERS = ((2, 18, 0), (1, 18, 1))
# of 10 images, white-box
WHITE_BOX = ((1, 0, 9), (2, 0, 8))


def write_fake_samples(
    folder: Path,
    num_sets: int = 2,
    *,
    models: Sequence[str] = VARIANTS,
    lacking: Iterable[tuple[str, int, str]] = (),
) -> Path:
    """Write a run folder; model, set and selection of evaluations it lacks may be given."""
    study, left_out = find_study("null-samples"), set(lacking)
    for trial in study.trials("source", range(num_sets), models):
        model, seed, selection = trial.model, trial.seed, trial.selection
        if selection == "test":
            # the odd sets keep another epoch if it is chosen on held-out images
            epochs = {"test": 3, "held-out": 3 - seed % 2}
            rng = np.random.default_rng([seed, VARIANTS.index(model)])
            write_training(folder, trial.training, _history(rng), **epochs)
        if (model, seed, selection) in left_out:
            continue
        path = folder / schema.TRIALS / f"{model}-seed{seed}-{selection}"
        rng = np.random.default_rng([seed, VARIANTS.index(model), selection == "test"])
        if model == "base":
            thresholds = {"image": np.arange(NUM_ATTACKED), "threshold": rng.beta(3, 10, 20)}
            frames.write_frame(path / schema.THRESHOLDS, pd.DataFrame(thresholds))
        write_trial(path, trial, _rows(trial), _examples(model, rng))
    trainings = {name: json_values(training(name, 0, "source")) for name in models}
    info = {
        "selections": ["test", "held-out"],
        "preset": "source",
        "settings": Settings(
            trainings=trainings,
            trials={f"{name}, {s}": {} for name in models for s in ("test", "held-out")},
        ),
    }
    return write_run(folder, study, models, num_sets, **info)


def _rows(trial: Trial) -> list[pd.DataFrame]:
    """Rows with the counts above; selected on held-out images one image more is fooled."""
    model, odd = trial.model, trial.seed % 2
    correct, null, fooled = AT_THRESHOLD.get(model, OTHERS)[odd]
    if trial.selection == "held-out" and model != "base":
        correct, fooled = correct - 1, fooled + 1

    def rows(attack: str, eps: float | np.ndarray, counts: Sequence[int], **columns: Any) -> Any:
        outcomes = np.repeat(["correct", "null", "fooled"], counts)
        columns["has_own_eps"] = isinstance(eps, np.ndarray)
        return group(attack, eps, outcomes, **columns)

    source = {"source": "self" if model == "base" else "base", "objective": "untargeted"}
    own = np.linspace(0.05, 0.4, NUM_ATTACKED)
    tables = [
        rows("clean", 0.0, (49 - odd, 0, 1 + odd)),
        rows("fgsm-threshold", own, (correct, null, fooled), **source),
    ]
    if trial.selection == "held-out":
        return tables
    for share, eps in zip(np.linspace(0, 1, len(CURVE_EPS)), CURVE_EPS, strict=True):
        num = round(share * NUM_ATTACKED)
        others = (0, num) if model == "base" else (num, 0)
        tables.append(rows("fgsm", eps, (NUM_ATTACKED - num, *others), **source))
    tables.append(rows(WHITE_BOX_AT_THRESHOLD, own[:NUM_WHITE_BOX], WHITE_BOX[odd]))
    for eps in WHITE_BOX_EPS:
        tables.append(rows("worst-case", eps, (5, 0, 5) if eps < 0.2 else WHITE_BOX[odd]))
    return tables


def _history(rng: np.random.Generator) -> dict[str, Any]:
    epochs = np.arange(1, 4)
    columns = ("loss", "test_loss", "held-out_loss")
    losses = {column: 0.3 / epochs * rng.uniform(0.8, 1.2, 3) for column in columns}
    return {"epoch": epochs, "null_loss": 0.1, **losses, "train_accuracy": 1 - 0.05 / epochs}


def _examples(model: str, rng: np.random.Generator) -> list[schema.Examples]:
    labels = np.arange(NUM_SHOWN) % 10
    wrong = (labels + 1) % 10
    answers = np.choose(np.arange(NUM_SHOWN) % 3, [labels, np.full(NUM_SHOWN, -1), wrong])
    if model == "base":
        answers = wrong
    attacks = ["fgsm-threshold", *(["fgsm-1.5-thresholds"] if model == "base" else [])]
    return [examples(a, float("nan"), answers.tolist(), rng, size=0.2) for a in attacks]


if __name__ == "__main__":
    write_fake_samples(Path(sys.argv[1]), int(sys.argv[2]))
