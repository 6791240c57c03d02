"""The only reader and writer of results. Rows first; tables and figures only read rows.

A run folder::

    run.json             study, settings, versions, commit, machine, data
    summary.csv          one metric a line (:data:`SUMMARY_COLUMNS`)
    report.html
    trials/NAME-seedN/   one trained model each
        model.safetensors, card.json       the checkpoint
        history.csv                        one training epoch a line
        rows.csv.gz                        one attacked image a line (:data:`ROW_COLUMNS`)
        examples.safetensors               a few images to show
        result.json                        written last: the trial is whole
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nullclass.errors import UserError
from nullclass.files import read_json, replacing, write_json
from nullclass.outcomes import OUTCOME_NAMES
from nullclass.summary import summarise

RUN = "run.json"
SUMMARY = "summary.csv"
REPORT = "report.html"
TRIALS = "trials"
HISTORY = "history.csv"
ROWS = "rows.csv.gz"
EXAMPLES = "examples.safetensors"
RESULT = "result.json"
WHOLE = (RESULT, ROWS, EXAMPLES)
"""What a whole trial has, besides its checkpoint."""

ROW_COLUMNS = {
    "image": "int64",  # index in the test set
    "label": "int64",
    "attack": "str",  # "none" for the clean image
    "objective": "str",  # "none" for the clean image
    "norm": "str",
    "eps_pixels": "float64",
    "prediction": "int64",  # -1 is null
    "outcome": "str",  # correct, null or fooled
    "confidence": "float64",  # probability of the prediction
    "loss": "float64",  # cross-entropy to the true label
    "null_loss": "float64",  # cross-entropy to null; NaN without a null class
}
"""Columns of ``rows.csv.gz`` and their types."""

SUMMARY_COLUMNS = [
    "study",
    "model",
    "seed",
    "attack",
    "objective",
    "norm",
    "eps_pixels",
    "metric",
    "value",
    "published",
    "low",
    "high",
    "num_images",
]
"""Columns of ``summary.csv``: rates are shares in [0,1]; ``low`` and ``high`` are the ends of the
95 % Wilson interval over images of a rate, empty for a loss; ``published`` is empty where the
source gives no figure."""


@dataclass(frozen=True)
class Examples:
    """A few clean images and what one attack made of them."""

    attack: str
    norm: str
    eps_pixels: float
    labels: list[int]
    clean_predictions: list[int]
    clean_confidences: list[float]
    predictions: list[int]
    confidences: list[float]
    clean: npt.NDArray[np.float32] = field(repr=False)
    """``(N, C, H, W)`` in [0,1]."""
    attacked: npt.NDArray[np.float32] = field(repr=False)
    """``(N, C, H, W)`` in [0,1]."""


@dataclass(frozen=True)
class Trial:
    """One trained and evaluated model of a run."""

    model: str
    seed: int
    result: dict[str, Any]
    """Settings and timings, from ``result.json``."""
    rows: pd.DataFrame = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    """Columns epoch, loss, null_loss, train_accuracy, validation_accuracy, seconds; empty for a
    model that was trained elsewhere."""
    examples: list[Examples] = field(repr=False)


@dataclass(frozen=True)
class Run:
    """Everything a report needs."""

    folder: Path
    info: dict[str, Any]
    """``run.json``."""
    summary: pd.DataFrame = field(repr=False)
    trials: list[Trial] = field(repr=False)


def trial_folder(run_folder: Path, model: str, seed: int) -> Path:
    """Where the trial of one model and seed lives."""
    return run_folder / TRIALS / f"{model}-seed{seed}"


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV (gzipped if the name says so), whole or not at all."""
    content = frame.to_csv(index=False, float_format="%.7g").encode()
    with replacing(path) as temporary:
        # The same rows give the same bytes: no time and no temporary name in the gzip header.
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_frame(path: Path, dtypes: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a table written by :func:`write_frame`.

    Raises:
        UserError: If it is missing, damaged, or lacks a column.
    """
    try:
        # "none" is an attack's name here, not a missing value
        frame = pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=["", "nan"])
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: run the study again, it redoes what is lacking"
        ) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())  # pandas tells some things in several lines
        raise UserError(
            f"{path} is damaged ({reason}): remove it and run the study again"
        ) from None
    missing = [column for column in dtypes or {} if column not in frame]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]!r}: it was written by something else")
    return frame


def write_examples(path: Path, examples: list[Examples]) -> None:
    """Write example images, their labels and predictions in one safetensors file."""
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    told = []
    for number, example in enumerate(examples):
        tensors[f"{number}.clean"] = np.ascontiguousarray(example.clean)
        tensors[f"{number}.attacked"] = np.ascontiguousarray(example.attacked)
        told.append({k: v for k, v in asdict(example).items() if k not in ("clean", "attacked")})
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"examples": json.dumps(told)})


def read_examples(path: Path) -> list[Examples]:
    """Read what :func:`write_examples` wrote; no file, no examples."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="numpy") as file:
            return [
                Examples(
                    **told,
                    clean=file.get_tensor(f"{number}.clean"),
                    attacked=file.get_tensor(f"{number}.attacked"),
                )
                for number, told in enumerate(json.loads(file.metadata()["examples"]))
            ]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run the study again") from None


def write_trial(
    folder: Path,
    rows: pd.DataFrame,
    history: pd.DataFrame,
    examples: list[Examples],
    result: dict[str, Any],
) -> None:
    """Write a trial; ``result.json`` last, so that it vouches for the rest.

    Args:
        folder: The trial's folder.
        rows: Columns of :data:`ROW_COLUMNS`.
        history: One training epoch a line; may be empty.
        examples: Images to show.
        result: At least ``model`` and ``seed``.
    """
    try:
        (folder / RESULT).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from error
    write_frame(folder / ROWS, rows[list(ROW_COLUMNS)])
    write_frame(folder / HISTORY, history)
    write_examples(folder / EXAMPLES, examples)
    write_json(folder / RESULT, {**result, "num_rows": len(rows)})


def read_trial(folder: Path) -> Trial:
    """Read one trial; raises :class:`UserError` for what is missing or damaged."""
    result = read_json(folder / RESULT, "result of a trial")
    try:
        history = read_frame(folder / HISTORY)
    except UserError:
        history = pd.DataFrame()
    rows = read_frame(folder / ROWS, ROW_COLUMNS)
    is_whole = len(rows) == result.get("num_rows", len(rows))
    if not is_whole or not rows["outcome"].isin(OUTCOME_NAMES).all():
        raise UserError(f"{folder / ROWS} is damaged: remove it and run the study again")
    try:
        return Trial(
            model=result["model"],
            seed=result["seed"],
            result=result,
            rows=rows,
            history=history,
            examples=read_examples(folder / EXAMPLES),
        )
    except KeyError as error:
        raise UserError(f"{folder / RESULT} does not say its {error}: remove that folder") from None


def whole_trials(run_folder: Path) -> Iterator[Path]:
    """Folders of the trials that are whole, by name."""
    for result in sorted((run_folder / TRIALS).glob(f"*/{RESULT}")):
        if is_whole(result.parent):
            yield result.parent


def is_whole(folder: Path) -> bool:
    """Whether a trial is all there; who removed a damaged file wants it done again."""
    return all((folder / name).exists() for name in WHOLE)


def write_summary(
    folder: Path,
    study: str,
    published: Callable[[str, str, float, str], float | None] = lambda *_: None,
) -> None:
    """Write ``summary.csv`` from the rows of every whole trial.

    Args:
        folder: The run folder.
        study: Name of the study, for its column.
        published: Model, attack, eps in pixel units and metric to the source's figure, if any.
    """
    tables = []
    for trial in map(read_trial, whole_trials(folder)):
        table = summarise(trial.rows).assign(study=study, model=trial.model, seed=trial.seed)
        told = zip(table["attack"], table["eps_pixels"], table["metric"], strict=True)
        table["published"] = [published(trial.model, *place) for place in told]
        tables.append(table)
    summary = pd.concat(tables) if tables else pd.DataFrame(columns=SUMMARY_COLUMNS)
    write_frame(folder / SUMMARY, summary[SUMMARY_COLUMNS])


def read_info(folder: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises:
        UserError: If it is no run folder, or the file is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}: give the --out of a study or evaluation")
    return read_json(folder / RUN, "description of a run")


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: If it is no run folder, or something in it is missing or damaged.
    """
    info = read_info(folder)
    order = info.get("models", [])
    trials = [read_trial(path) for path in whole_trials(folder)]
    trials.sort(key=lambda t: (order.index(t.model) if t.model in order else len(order), t.seed))
    return Run(folder=folder, info=info, summary=read_frame(folder / SUMMARY), trials=trials)
