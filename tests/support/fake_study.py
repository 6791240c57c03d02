"""What the made-up runs of studies share: rows by outcome, trainings, evaluations, run.json."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fake_run import PROVENANCE, build_evaluation, digit, rows_table, run_info
from msgspec import structs

from nullclass.core.documents import json_values
from nullclass.core.paths import file_name
from nullclass.evaluation.result import Evaluation
from nullclass.experiments.config import Training, Trial
from nullclass.experiments.study import Study
from nullclass.results import frames, schema, store
from nullclass.results.info import CostInfo, TrainingResult, TrialResult


class Unscored(Evaluation):
    """Without metrics of the null score: no page of these studies shows them, and they are slow."""

    def scores(self) -> pd.DataFrame:
        """None."""
        return pd.DataFrame(columns=["attack"])


def predictions_of(outcomes: np.ndarray) -> np.ndarray:
    """Predictions with these outcomes, of images whose labels count up from 0."""
    labels = np.arange(len(outcomes)) % 10
    return np.select([outcomes == "null", outcomes == "fooled"], [-1, (labels + 1) % 10], labels)


def group(
    attack: str, eps: float | np.ndarray, outcomes: np.ndarray, **columns: Any
) -> pd.DataFrame:
    """Rows of one attack; labels count up from 0."""
    labels = np.arange(len(outcomes)) % 10
    columns = {"objective": "clean" if attack == "clean" else "fool", **columns}
    return rows_table(labels, predictions_of(outcomes), attack=attack, eps_pixels=eps, **columns)


def write_training(folder: Path, training: Training, history: dict[str, Any], **epochs: int) -> str:
    """Write the history of a training; the result's ``trained_in``."""
    trained_in = f"{schema.MODELS}/{file_name(training.name)}-seed{training.seed}"
    missing = {"null_loss": np.nan, "validation_accuracy": np.nan, "seconds": 9.0}
    frames.write_frame(folder / trained_in / schema.HISTORY, pd.DataFrame(missing | history))
    result = TrainingResult(
        name=training.name,
        seed=training.seed,
        config=json_values(training),
        epochs=epochs,
        provenance=PROVENANCE,
    )
    store.finalize(folder / trained_in, result)
    return trained_in


def write_trial(
    folder: Path,
    trial: Trial,
    rows: Sequence[pd.DataFrame],
    examples: list[schema.Examples],
    *,
    prediction: CostInfo | None = None,
    **tables: pd.DataFrame,
) -> None:
    """Write one evaluation into its folder.

    Args:
        folder: The trial's folder.
        trial: Its config.
        rows: Rows of each attack.
        examples: Example images.
        prediction: Cost of a prediction.
        tables: Further tables of the evaluation.
    """
    evaluation = vars(build_evaluation(pd.concat(rows, ignore_index=True), examples)) | tables
    Unscored(**evaluation).write(
        folder,
        model=trial.model,
        seed=trial.seed,
        selection=trial.selection,
        config=trial,
        prediction=prediction,
        trained_in=f"{schema.MODELS}/{file_name(trial.training.name)}-seed{trial.seed}",
        provenance=PROVENANCE,
    )


def write_run(
    folder: Path, study: Study, models: Sequence[str], num_seeds: int, **info: Any
) -> Path:
    """Write ``run.json`` of the evaluations written before."""
    values = {"preset": "quick", "models": list(models), "seeds": list(range(num_seeds)), **info}
    made = run_info(folder, study=study.name, **values)
    done = [store.read_result(folder / name, TrialResult) for name in made.trials.values()]
    planned = set(product(made.models, made.seeds, made.selections))
    missing = planned - {(result.model, result.seed, result.selection) for result in done}
    others = {", ".join(map(str, key)): f"{schema.TRIALS}/missing" for key in sorted(missing)}
    store.write_info(folder, structs.replace(made, trials=made.trials | others))
    return folder


def examples(
    attack: str,
    eps: float,
    predictions: Sequence[int],
    rng: np.random.Generator,
    *,
    clean_predictions: Sequence[int] | None = None,
    size: float | None = None,
) -> schema.Examples:
    """Example images of one attack, of labels that count up from 0.

    Args:
        attack: Name of the attack.
        eps: Its ε; NaN if each image has its own.
        predictions: For the attacked images.
        rng: Of the images.
        clean_predictions: For the clean images; by default correct.
        size: ε of every image, if ``eps`` is NaN.
    """
    num = len(predictions)
    labels = [n % 10 for n in range(num)]
    clean = np.stack([digit(label, rng) for label in labels])
    sign = np.sign(rng.normal(size=clean.shape)).astype(np.float32)
    eps_of_each = eps if size is None else size
    return schema.Examples(
        attack=attack,
        norm="linf",
        eps_pixels=eps,
        budgets=[eps_of_each] * num,
        labels=labels,
        clean_predictions=labels if clean_predictions is None else [*clean_predictions],
        clean_confidences=[0.95] * num,
        predictions=[*predictions],
        confidences=[0.8] * num,
        clean=clean,
        adv_images=(clean + np.float32(eps_of_each) * sign).clip(0, 1),
    )
