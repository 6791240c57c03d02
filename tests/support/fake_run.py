"""What made-up runs share: rows of one attack, evaluations, example images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from nullclass.core.origin import Machine, Provenance
from nullclass.core.paths import file_name
from nullclass.evaluation.result import Evaluation
from nullclass.results import schema, store
from nullclass.results.info import DataInfo, RunInfo, Settings, TrialResult
from nullclass.results.run import Run, Trial
from nullclass.results.schema import CLEAN, NO_MEMBER


def build_evaluation(
    rows: pd.DataFrame, examples: list[schema.Examples], **parts: Any
) -> Evaluation:
    """An evaluation with these rows and images, and empty tables for the rest."""
    tables = {"costs": schema.COST_COLUMNS, "held_out": schema.ROW_COLUMNS}
    tables["ood"] = schema.OOD_COLUMNS
    empty = {name: pd.DataFrame(columns=list(columns)) for name, columns in tables.items()}
    defaults = {"threat": {"norm": "linf", "num_classes": 10}, "probes": {}, "flags": []}
    return Evaluation(rows=rows, examples=examples, **(empty | defaults | parts))


T = TypeVar("T", Trial, Run)

PROVENANCE = Provenance(
    versions={"nullclass": "1", "torch": "2.13.0", "python": "3.11"},
    commit=None,
    machine=Machine(system="Linux", processor="made up", num_cores=2, num_threads=1),
)


DATA = DataInfo(
    name="made up",
    checksum="0",
    source="made up",
    num_test_images=100,
    num_training_images=55_000,
)


def trial_folder(folder: Path, model: str, seed: int) -> Path:
    """Folder of a model's evaluation."""
    return folder / schema.TRIALS / f"{file_name(model)}-seed{seed}"


def run_info(folder: Path, **values: Any) -> RunInfo:
    """``run.json`` of the evaluations written before."""
    trials = sorted(path.parent for path in (folder / schema.TRIALS).glob(f"*/{schema.RESULT}"))
    results = [store.read_result(path, TrialResult) for path in trials]
    defaults = {
        "format": schema.FORMAT,
        "study": "evaluate",
        "models": list(dict.fromkeys(result.model for result in results)),
        "seeds": sorted({result.seed for result in results}),
        "trials": {path.name: path.relative_to(folder).as_posix() for path in trials},
        "data": DATA,
        "device": "cpu",
        "provenance": PROVENANCE,
        "started": "2030-01-02T03:04:05+00:00",
        "settings": Settings(trials={f"{result.model}, last": {} for result in results}),
    }
    return RunInfo(**(defaults | values))


def with_files(one: T, **contents: Any) -> T:
    """A copy of a trial or run whose files have other contents."""
    copy = replace(one)
    copy.__dict__.update(contents)  # where cached_property stores what it read
    return copy


def rows_table(labels: np.ndarray, predicted: np.ndarray, **columns: Any) -> pd.DataFrame:
    """Rows of one attack (:data:`nullclass.results.schema.ROW_COLUMNS`).

    Args:
        labels: ``(N,)`` true classes.
        predicted: ``(N,)`` predictions, -1 for null.
        columns: The other columns, of those that have no default.
    """
    is_clean = columns.get("attack", CLEAN) == CLEAN
    defaults = {
        "image": np.arange(len(labels)),
        "label": labels,
        "attack": CLEAN,
        "objective": CLEAN,
        "source": CLEAN if is_clean else "self",
        "norm": "linf",
        "has_own_eps": False,
        "eps_pixels": 0.0,
        "attacked_eps_pixels": math.nan if is_clean else columns.get("eps_pixels", 0.0),
        "member": CLEAN if is_clean else NO_MEMBER,
        "prediction": predicted,
        "outcome": np.select([predicted == labels, predicted < 0], ["correct", "null"], "fooled"),
        "confidence": 0.9,
        "loss": 0.1,
        "null_loss": 2.0,
        "real_prediction": np.where(predicted < 0, labels, predicted),
        "null_score": -1.0,
    }
    return pd.DataFrame(defaults | columns)[list(schema.ROW_COLUMNS)]


def digit(label: int, rng: np.random.Generator) -> np.ndarray:
    """Something like a handwritten digit: a bright stroke on black."""
    image = np.zeros((1, 28, 28), np.float32)
    for t in np.linspace(0, 1, 60):
        angle = (label + 1) * math.pi * t
        y, x = 14 + 8 * math.sin(angle) * (1 - t / 2), 14 + 8 * math.cos(angle + label)
        image[0, int(y) : int(y) + 2, int(x) : int(x) + 2] = rng.uniform(0.7, 1)
    return image


def examples_of(
    rows: pd.DataFrame, clean_predictions: Sequence[int], rng: np.random.Generator, eps: float
) -> schema.Examples:
    """Example images of some rows of one attack; every pixel changes by the row's ε."""
    clean = np.stack([digit(int(label) % 10, rng) for label in rows["label"]])
    sign = np.sign(rng.normal(size=clean.shape)).astype(np.float32)
    step = rows["eps_pixels"].to_numpy(np.float32)[:, None, None, None]
    return schema.Examples(
        attack=str(rows["attack"].iloc[0]),
        norm=str(rows["norm"].iloc[0]),
        eps_pixels=eps,
        budgets=rows["eps_pixels"].tolist(),
        labels=rows["label"].tolist(),
        clean_predictions=[int(answer) for answer in clean_predictions],
        clean_confidences=[0.95] * len(rows),
        predictions=rows["prediction"].tolist(),
        confidences=[0.7] * len(rows),
        clean=clean,
        adv_images=(clean + step * sign).clip(0, 1),
    )
